/*
 * rules.h - which creations are denied.
 *
 * A rule set is immutable. The notify routine takes a reference to the current one without a lock and without a call
 * out of the driver: pointer and number of references taken are one 16-byte value that changes by compare and
 * exchange. Replacing the set moves that number into the old set's own balance, from which each release subtracts;
 * whoever brings the balance to zero frees the set. Before its replacement a set's balance is zero or negative after
 * any release, so it cannot be freed while it is current.
 */
#ifndef PROCNOTIFY_RULES_H
#define PROCNOTIFY_RULES_H

#include "ntproof_compat.h"
#include "procnotify.h"

typedef struct _PN_RULE_SET PN_RULE_SET, *PPN_RULE_SET;

typedef struct DECLSPEC_ALIGN(16) _PN_RULE_REFERENCE {
    PPN_RULE_SET Set; /* NULL when no rule is in force */
    LONG64 Taken;     /* references taken since the set became current */
} PN_RULE_REFERENCE, *PPN_RULE_REFERENCE;

typedef struct _PN_RULES {
    PN_RULE_REFERENCE Current;
    FAST_MUTEX Lock; /* serialises replacing and reading back; the notify routine never takes it */
    ULONG Generation;
} PN_RULES, *PPN_RULES;

_IRQL_requires_max_(DISPATCH_LEVEL)
VOID PnRulesInitialize(_Out_ PPN_RULES Rules);

/* Give up the current set. No notify routine may run any more. */
_IRQL_requires_(PASSIVE_LEVEL)
VOID PnRulesFree(_Inout_ PPN_RULES Rules);

/* Validate a PROCNOTIFY_RULES of `Length` bytes and put it in force; on failure the old set stays. */
_IRQL_requires_(PASSIVE_LEVEL)
_Must_inspect_result_
NTSTATUS PnRulesReplace(_Inout_ PPN_RULES Rules, _In_reads_bytes_(Length) const VOID *Buffer, _In_ ULONG Length);

/* Copy the set in force, byte for byte as it was given; STATUS_BUFFER_TOO_SMALL when it does not fit. */
_IRQL_requires_(PASSIVE_LEVEL)
_Must_inspect_result_
NTSTATUS PnRulesQuery(_Inout_ PPN_RULES Rules, _Out_writes_bytes_to_(Length, *Written) VOID *Buffer, _In_ ULONG Length,
                      _Out_ PULONG Written);

/* Fill in the statistics about rules; the others are left alone. */
_IRQL_requires_(PASSIVE_LEVEL)
VOID PnRulesStatistics(_Inout_ PPN_RULES Rules, _Inout_ PROCNOTIFY_STATISTICS *Statistics);

/* The status of the first rule that matches the image name, or STATUS_SUCCESS. */
_IRQL_requires_(PASSIVE_LEVEL)
NTSTATUS PnRulesMatch(_Inout_ PPN_RULES Rules, _In_ PCUNICODE_STRING ImageName);

#endif /* PROCNOTIFY_RULES_H */
