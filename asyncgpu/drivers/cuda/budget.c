/* Who may allocate how much of a device: asyncgpu/policy/budget.py, where torch allocates.
 *
 * torch.cuda.MemPool takes a pair of C functions, without user data, and calls them under the lock
 * of its allocator. So there is one pair for each account, and nothing here ever takes Python's
 * GIL: a thread that has the GIL may be waiting for torch's lock (pytorch issue 97833). No header
 * of CUDA or Python is needed to compile it; `asyncgpu_use_cuda` brings CUDA's functions along.
 */
#include <pthread.h>

#include "budget_rule.h"

/* Held for a few instructions: no call into CUDA is made under it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

typedef int malloc_function(void **, size_t);
typedef int free_function(void *);
typedef int get_last_error_function(void);
typedef int mem_get_info_function(size_t *, size_t *);

static malloc_function *cuda_malloc;
static free_function *cuda_free;
static get_last_error_function *cuda_get_last_error;
static mem_get_info_function *cuda_mem_get_info;

/* ------------------------------------------------------------------- where torch allocates */

static void *allocate(unsigned place, size_t size)
{
    account_t *account = &asyncgpu_accounts[place];
    size_t left = 0, total = 0;
    void *memory = NULL;
    if (size > (size_t)ENDLESS)
        return NULL;

    pthread_mutex_lock(&lock);
    int charged = account->number != 0 && charge(account, (int64_t)size);
    pthread_mutex_unlock(&lock);
    if (!charged)
        return NULL;
    if (cuda_malloc(&memory, size) == 0 && memory != NULL)
        return memory;

    /* The device is full. CUDA keeps that error for the next who asks, and it is not theirs. */
    cuda_get_last_error();
    cuda_mem_get_info(&left, &total);
    pthread_mutex_lock(&lock);
    remember_refusal(account, (int64_t)size, (int64_t)left, 1);
    credit(account, (int64_t)size);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void release(unsigned place, void *memory, size_t size)
{
    if (memory == NULL)
        return;
    /* First the memory, then the room for it: whoever is let in must find it. */
    cuda_free(memory);
    pthread_mutex_lock(&lock);
    credit(&asyncgpu_accounts[place], (int64_t)size);
    pthread_mutex_unlock(&lock);
}

typedef struct {
    void *(*allocate)(size_t, int, void *);
    void (*release)(void *, size_t, int, void *);
} functions_t;

/* Places are written as three hexadecimal digits, which the preprocessor can count. */
#define TIMES_16(M, n)                                                                            \
    M(n##0) M(n##1) M(n##2) M(n##3) M(n##4) M(n##5) M(n##6) M(n##7)                               \
    M(n##8) M(n##9) M(n##a) M(n##b) M(n##c) M(n##d) M(n##e) M(n##f)
#define TIMES_256(M, n)                                                                           \
    TIMES_16(M, n##0) TIMES_16(M, n##1) TIMES_16(M, n##2) TIMES_16(M, n##3)                       \
    TIMES_16(M, n##4) TIMES_16(M, n##5) TIMES_16(M, n##6) TIMES_16(M, n##7)                       \
    TIMES_16(M, n##8) TIMES_16(M, n##9) TIMES_16(M, n##a) TIMES_16(M, n##b)                       \
    TIMES_16(M, n##c) TIMES_16(M, n##d) TIMES_16(M, n##e) TIMES_16(M, n##f)
#define FOR_EACH_ACCOUNT(M) TIMES_256(M, 0) TIMES_256(M, 1) TIMES_256(M, 2) TIMES_256(M, 3)

#define DEFINE(n)                                                                                 \
    static void *allocate_##n(size_t size, int device, void *stream)                              \
    {                                                                                             \
        (void)device, (void)stream;                                                               \
        return allocate(0x##n, size);                                                             \
    }                                                                                             \
    static void release_##n(void *memory, size_t size, int device, void *stream)                  \
    {                                                                                             \
        (void)device, (void)stream;                                                               \
        release(0x##n, memory, size);                                                             \
    }
#define LIST(n) {allocate_##n, release_##n},

FOR_EACH_ACCOUNT(DEFINE)

const functions_t asyncgpu_functions[ACCOUNTS] = {FOR_EACH_ACCOUNT(LIST)};

/* ------------------------------------------------------------------- what Python calls */

void asyncgpu_use_cuda(malloc_function *allocates, free_function *frees,
                       get_last_error_function *clears_error, mem_get_info_function *tells_free)
{
    cuda_malloc = allocates;
    cuda_free = frees;
    cuda_get_last_error = clears_error;
    cuda_mem_get_info = tells_free;
}

/* The account of that number, with the lock held; NULL, without it, if there is none. */
static account_t *locked(int64_t number)
{
    account_t *account = &asyncgpu_accounts[(uint64_t)number % ACCOUNTS];
    pthread_mutex_lock(&lock);
    if (number != 0 && account->number == number)
        return account;
    pthread_mutex_unlock(&lock);
    return NULL;
}

static int64_t unlocked(int64_t answer)
{
    pthread_mutex_unlock(&lock);
    return answer;
}

int64_t asyncgpu_open_ledger(int64_t capacity)
{
    pthread_mutex_lock(&lock);
    for (int place = 0; place < LEDGERS; place++) {
        ledger_t *ledger = &asyncgpu_ledgers[place];
        if (!ledger->open && ledger->accounts == 0) {
            *ledger = (ledger_t){.open = 1, .capacity = capacity};
            return unlocked(place);
        }
    }
    return unlocked(TABLE_FULL);
}

void asyncgpu_close_ledger(int64_t ledger)
{
    pthread_mutex_lock(&lock);
    asyncgpu_ledgers[ledger].open = 0;
    pthread_mutex_unlock(&lock);
}

void asyncgpu_set_capacity(int64_t ledger, int64_t capacity)
{
    pthread_mutex_lock(&lock);
    asyncgpu_ledgers[ledger].capacity = capacity;
    pthread_mutex_unlock(&lock);
}

int64_t asyncgpu_open_group(int64_t limit)
{
    pthread_mutex_lock(&lock);
    for (int tried = 0; tried < GROUPS; tried++) {
        unsigned place = next_group++ % GROUPS;
        group_t *group = &groups[place];
        if (group->number == 0) {
            int64_t number = (group->last == 0 ? place : group->last) + GROUPS;
            *group = (group_t){.number = number, .last = number, .limit = limit};
            return unlocked(number);
        }
    }
    return unlocked(TABLE_FULL);
}

int64_t asyncgpu_close_group(int64_t number)
{
    group_t *group = &groups[(uint64_t)number % GROUPS];
    pthread_mutex_lock(&lock);
    if (number == 0 || group->number != number)
        return unlocked(UNKNOWN);
    group->number = 0;
    return unlocked(DONE);
}

int64_t asyncgpu_open(int64_t ledger, int64_t cap, int64_t reserved, int64_t group)
{
    account_t fresh = {.ledger = ledger, .group = group, .cap = cap, .requested = -1};
    pthread_mutex_lock(&lock);
    if (reserved > unclaimed(&fresh))
        return unlocked(REFUSED);
    for (int tried = 0; tried < ACCOUNTS; tried++) {
        /* In turn, so that a place rests as long as it can before it is used again. */
        unsigned place = next_account++ % ACCOUNTS;
        account_t *account = &asyncgpu_accounts[place];
        if (account->number == 0) {
            fresh.number = fresh.last = (account->last == 0 ? place : account->last) + ACCOUNTS;
            *account = fresh;
            asyncgpu_ledgers[ledger].accounts++;
            set_reserved(account, reserved);
            return unlocked(fresh.number);
        }
    }
    return unlocked(TABLE_FULL);
}

int64_t asyncgpu_close(int64_t number)
{
    account_t *account = locked(number);
    if (account == NULL)
        return UNKNOWN;
    set_reserved(account, 0);
    account->closed = 1;
    forget_if_gone(account);
    return unlocked(DONE);
}

int64_t asyncgpu_charge(int64_t number, int64_t size)
{
    account_t *account = locked(number);
    return account == NULL ? UNKNOWN : unlocked(charge(account, size));
}

int64_t asyncgpu_credit(int64_t number, int64_t size)
{
    account_t *account = locked(number);
    return account == NULL ? UNKNOWN : unlocked(credit(account, size));
}

int64_t asyncgpu_set_cap(int64_t number, int64_t cap)
{
    account_t *account = locked(number);
    if (account == NULL)
        return UNKNOWN;
    account->cap = cap;
    return unlocked(DONE);
}

int64_t asyncgpu_reserve(int64_t number, int64_t size)
{
    account_t *account = locked(number);
    if (account == NULL)
        return UNKNOWN;
    int64_t grows = larger(account->used, size) - commitment(account);
    if (size > account->reserved && (account->closed || grows > unclaimed(account)))
        return unlocked(REFUSED);
    set_reserved(account, size);
    return unlocked(DONE);
}

int64_t asyncgpu_headroom(int64_t number)
{
    account_t *account = locked(number);
    if (account == NULL)
        return UNKNOWN;
    return unlocked(larger(0, smaller(own_room(account), shared_room(account))));
}

/* Writes requested, available and by_device; REFUSED: it has not been refused. */
int64_t asyncgpu_refusal(int64_t number, int64_t *refusal)
{
    account_t *account = locked(number);
    if (account == NULL)
        return UNKNOWN;
    refusal[0] = account->requested;
    refusal[1] = account->available;
    refusal[2] = account->by_device;
    return unlocked(account->requested < 0 ? REFUSED : DONE);
}

/* Keeps an account's place for it, closed and using nothing or not, by one more (1, or -1). */
int64_t asyncgpu_hold(int64_t number, int64_t by)
{
    account_t *account = locked(number);
    if (account == NULL)
        return UNKNOWN;
    account->holds += by;
    forget_if_gone(account);
    return unlocked(DONE);
}
