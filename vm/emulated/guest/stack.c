/*
 * __chkstk: compilers call it in functions with more than a page of locals, with the size in rax. It touches each page
 * down to the new stack pointer, in order, changes nothing but r10, r11 and the flags, and leaves the subtraction to its
 * caller ("x64 prolog and epilog", Microsoft Learn).
 */
#include "kernel.h"

EXPORT __attribute__((naked)) void __chkstk(void)
{
    __asm__("leaq 8(%rsp), %r10\n\t"
            "movq %rax, %r11\n"
            "1:\n\t"
            "cmpq $0x1000, %r11\n\t"
            "jb 2f\n\t"
            "subq $0x1000, %r10\n\t"
            "testb $0, (%r10)\n\t"
            "subq $0x1000, %r11\n\t"
            "jmp 1b\n"
            "2:\n\t"
            "subq %r11, %r10\n\t"
            "testb $0, (%r10)\n\t"
            "ret");
}
