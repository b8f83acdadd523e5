/* As much of CUDA's runtime library as budget.c calls: a device of a given size. */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { OUT_OF_MEMORY = 2 };

_Atomic int64_t fake_free = (int64_t)1 << 62;
_Atomic int64_t fake_error, fake_mallocs, fake_frees;

int cudaMalloc(void **memory, size_t size)
{
    if (atomic_fetch_sub(&fake_free, (int64_t)size) < (int64_t)size) {
        atomic_fetch_add(&fake_free, (int64_t)size);
        fake_error = OUT_OF_MEMORY;
        return OUT_OF_MEMORY;
    }
    int64_t *block = malloc(sizeof *block);
    *block = (int64_t)size;
    *memory = block;
    fake_mallocs++;
    return 0;
}

int cudaFree(void *memory)
{
    int64_t *block = memory;
    fake_free += *block;
    fake_frees++;
    free(block);
    return 0;
}

int cudaGetLastError(void) { return (int)atomic_exchange(&fake_error, 0); }

int cudaMemGetInfo(size_t *left, size_t *total)
{
    *left = (size_t)fake_free;
    *total = (size_t)1 << 62;
    return 0;
}
