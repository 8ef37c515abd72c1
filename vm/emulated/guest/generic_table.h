/*
 * What the two kinds of generic tables share (ntddk.h). The caller's routines compare, allocate and free, which is why
 * tables are guest code. Callers hold their own lock.
 */
#pragma once

#include "kernel.h"

typedef enum { GenericLessThan, GenericGreaterThan, GenericEqual } RTL_GENERIC_COMPARE_RESULTS;
typedef enum { TableEmptyTree, TableFoundNode, TableInsertAsLeft, TableInsertAsRight } TABLE_SEARCH_RESULT;

typedef RTL_GENERIC_COMPARE_RESULTS COMPARE_ROUTINE(void *table, void *first, void *second);
typedef void *ALLOCATE_ROUTINE(void *table, uint32_t size);
typedef void FREE_ROUTINE(void *table, void *block);
