/*
 * Hooks that run at every basic block or instruction of the emulated CPU, where Python would be a thousand times too
 * slow. Compiled once per host by vm/emulated/processor/native.py; the layout of `counters` is mirrored there.
 */
#include <stdint.h>

typedef struct {
    uint64_t blocks;       /* basic blocks since the host last set this to zero */
    uint64_t block_limit;  /* stop the CPU when `blocks` reaches it */
    uint64_t stopped_at;   /* address of the block that hit the limit, else 0 */
    uint64_t instructions; /* instructions executed while counting */
    int (*stop)(void *engine);
    uint64_t stubs_begin;  /* import stubs: leaving the guest costs as much time as many blocks */
    uint64_t stubs_end;
} counters;

#define STUB_COST 32

#define HOOK __attribute__((visibility("default")))

HOOK void on_block(void *engine, uint64_t address, uint32_t size, void *context)
{
    counters *state = context;
    (void)size;
    state->blocks += address >= state->stubs_begin && address < state->stubs_end ? STUB_COST : 1;
    if (state->blocks >= state->block_limit) {
        state->stopped_at = address;
        state->stop(engine);
    }
}

HOOK void on_instruction(void *engine, uint64_t address, uint32_t size, void *context)
{
    counters *state = context;
    (void)engine;
    (void)address;
    (void)size;
    state->instructions++;
}
