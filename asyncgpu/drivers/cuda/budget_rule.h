/* The rule of asyncgpu/policy/budget.py on tables; every function is called with the lock held.
 *
 * The tables are read by the Python side without a call (library.py has the same structures), so
 * every field is an aligned 64-bit number that only ever changes under the lock.
 */
#include <stddef.h>
#include <stdint.h>

enum { ACCOUNTS = 1024, GROUPS = 1024, LEDGERS = 256 };

/* What a call answers, where it does not answer with a number of its own. */
enum { DONE = 1, REFUSED = 0, UNKNOWN = -1, TABLE_FULL = -2 };

#define ENDLESS ((int64_t)1 << 62) /* what an account without a cap may use by itself */

typedef struct {
    int64_t open;
    int64_t accounts; /* how many are in the table, closed ones that still use something too */
    int64_t capacity, committed, used;
} ledger_t;

typedef struct {
    int64_t number; /* 0: the place is free */
    int64_t last;   /* the latest number of this place; numbers are never used again */
    int64_t limit, committed;
} group_t;

typedef struct {
    int64_t number, last; /* as a group's */
    int64_t ledger, group;
    int64_t cap; /* -1: none */
    int64_t reserved, used, peak;
    int64_t closed;
    int64_t holds; /* pools that may still call its functions */
    int64_t requested, available, by_device; /* the latest refusal; requested is -1: none */
} account_t;

ledger_t asyncgpu_ledgers[LEDGERS];
account_t asyncgpu_accounts[ACCOUNTS];
static group_t groups[GROUPS];
static unsigned next_account, next_group;

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t commitment(const account_t *account)
{
    return larger(account->used, account->reserved);
}

static int64_t available(const ledger_t *ledger)
{
    return larger(0, ledger->capacity - ledger->committed);
}

static group_t *group_of(const account_t *account)
{
    group_t *group = &groups[account->group % GROUPS];
    return account->group != 0 && group->number == account->group ? group : NULL;
}

/* What its commitment could grow by. */
static int64_t unclaimed(const account_t *account)
{
    int64_t room = available(&asyncgpu_ledgers[account->ledger]);
    const group_t *group = group_of(account);
    return group == NULL ? room : larger(0, smaller(room, group->limit - group->committed));
}

static int64_t own_room(const account_t *account)
{
    if (account->closed)
        return 0;
    int64_t room = account->cap < 0 ? ENDLESS : account->cap - account->used;
    const group_t *group = group_of(account);
    if (group == NULL)
        return room;
    int64_t unused = commitment(account) - account->used;
    return smaller(room, larger(0, group->limit - group->committed) + unused);
}

static int64_t shared_room(const account_t *account)
{
    const ledger_t *ledger = &asyncgpu_ledgers[account->ledger];
    return available(ledger) + commitment(account) - account->used;
}

/* Its commitment was `before`. */
static void commit(const account_t *account, int64_t before)
{
    int64_t change = commitment(account) - before;
    asyncgpu_ledgers[account->ledger].committed += change;
    group_t *group = group_of(account);
    if (group != NULL)
        group->committed += change;
}

static void use(account_t *account, int64_t size)
{
    int64_t before = commitment(account);
    account->used += size;
    asyncgpu_ledgers[account->ledger].used += size;
    commit(account, before);
}

static void set_reserved(account_t *account, int64_t size)
{
    int64_t before = commitment(account);
    account->reserved = size;
    commit(account, before);
}

static void remember_refusal(account_t *account, int64_t requested, int64_t room, int by_device)
{
    account->requested = requested;
    account->available = larger(0, room);
    account->by_device = by_device;
}

static int charge(account_t *account, int64_t size)
{
    int64_t own = own_room(account), room = smaller(own, shared_room(account));
    if (size > room) {
        remember_refusal(account, size, room, size <= own);
        return REFUSED;
    }
    use(account, size);
    account->peak = larger(account->peak, account->used);
    return DONE;
}

static void forget_if_gone(account_t *account)
{
    if (account->number != 0 && account->closed && account->used == 0 && account->holds == 0) {
        account->number = 0;
        asyncgpu_ledgers[account->ledger].accounts--;
    }
}

static int credit(account_t *account, int64_t size)
{
    if (size > account->used)
        return REFUSED;
    use(account, -size);
    forget_if_gone(account);
    return DONE;
}
