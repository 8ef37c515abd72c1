/*
 * processor.h - the cells of the processor control region and of ETHREAD that guest code and host share.
 *
 * The offsets are those of vm/emulated/layout.py; a test compares the two.
 */
#ifndef PROCESSOR_H
#define PROCESSOR_H

#include <stdint.h>

#define PCR_ADDRESS 0xFFFFF800000A0000ull
#define PCR_IRQL 0x50
#define PCR_CURRENT_THREAD 0x188
#define PCR_SLOW_IRQL 0x3000
#define PCR_HELD_COUNT 0x3008
#define PCR_HELD 0x3010
#define PCR_HELD_MAXIMUM 64

#define ETHREAD_KERNEL_APC_DISABLE 0x100
#define ETHREAD_SPECIAL_APC_DISABLE 0x104

#define PASSIVE_LEVEL 0
#define APC_LEVEL 1
#define DISPATCH_LEVEL 2
#define HIGH_LEVEL 15

#define PCR_CELL(Type, Offset) (*(volatile Type *)(PCR_ADDRESS + (Offset)))
#define CURRENT_IRQL PCR_CELL(uint8_t, PCR_IRQL)
#define SLOW_IRQL PCR_CELL(uint8_t, PCR_SLOW_IRQL)
#define HELD_COUNT PCR_CELL(uint64_t, PCR_HELD_COUNT)
#define THREAD_CELL(Type, Offset) (*(volatile Type *)(PCR_CELL(uint64_t, PCR_CURRENT_THREAD) + (Offset)))

typedef struct {
    uint64_t lock;
    uint64_t taken_at;
} held_lock;

#define HELD_LOCKS ((volatile held_lock *)(PCR_ADDRESS + PCR_HELD))

#endif /* PROCESSOR_H */
