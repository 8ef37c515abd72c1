/*
 * Generic tables that are splay trees (ntddk.h, RTL_GENERIC_TABLE), and RtlSplay's family. Elements are also kept in
 * the order of their insertion.
 */
#include "generic_table.h"

typedef struct _SPLAY_LINKS {
    struct _SPLAY_LINKS *Parent; /* the root is its own parent */
    struct _SPLAY_LINKS *LeftChild;
    struct _SPLAY_LINKS *RightChild;
} SPLAY_LINKS;

typedef struct {
    SPLAY_LINKS Splay;
    LIST_ENTRY Order;
    uint8_t Data[];
} SPLAY_NODE;

typedef struct {
    SPLAY_LINKS *TableRoot;
    LIST_ENTRY InsertOrderList;
    LIST_ENTRY *OrderedPointer;
    uint32_t WhichOrderedElement;
    uint32_t NumberGenericTableElements;
    COMPARE_ROUTINE *CompareRoutine;
    ALLOCATE_ROUTINE *AllocateRoutine;
    FREE_ROUTINE *FreeRoutine;
    void *TableContext;
} GENERIC_TABLE;

_Static_assert(sizeof(SPLAY_NODE) == 0x28, "header of a splay table's element");
_Static_assert(sizeof(GENERIC_TABLE) == 0x48, "RTL_GENERIC_TABLE");

static void splay_rotate(SPLAY_LINKS *node)
{
    SPLAY_LINKS *parent = node->Parent, *above = parent->Parent, *inner;

    if (parent->LeftChild == node) {
        inner = node->RightChild;
        parent->LeftChild = inner;
        node->RightChild = parent;
    } else {
        inner = node->LeftChild;
        parent->RightChild = inner;
        node->LeftChild = parent;
    }
    if (inner)
        inner->Parent = parent;
    if (above == parent)
        node->Parent = node;
    else {
        node->Parent = above;
        if (above->LeftChild == parent)
            above->LeftChild = node;
        else
            above->RightChild = node;
    }
    parent->Parent = node;
}

/* Bring a node to the root of its tree; returns the root. */
EXPORT SPLAY_LINKS *RtlSplay(SPLAY_LINKS *node)
{
    while (node->Parent != node) {
        SPLAY_LINKS *parent = node->Parent;

        if (parent->Parent != parent)
            splay_rotate((parent->Parent->LeftChild == parent) == (parent->LeftChild == node) ? parent : node);
        splay_rotate(node);
    }
    return node;
}

static SPLAY_LINKS *splay_first(SPLAY_LINKS *node)
{
    while (node && node->LeftChild)
        node = node->LeftChild;
    return node;
}

EXPORT SPLAY_LINKS *RtlRealSuccessor(SPLAY_LINKS *node)
{
    if (node->RightChild)
        return splay_first(node->RightChild);
    while (node->Parent != node && node->Parent->RightChild == node)
        node = node->Parent;
    return node->Parent == node ? NULL : node->Parent;
}

/* Take a node out of its tree; returns the new root. */
EXPORT SPLAY_LINKS *RtlDelete(SPLAY_LINKS *node)
{
    SPLAY_LINKS *left, *right, *next;

    RtlSplay(node);
    left = node->LeftChild;
    right = node->RightChild;
    if (left)
        left->Parent = left;
    if (right)
        right->Parent = right;
    if (!left || !right)
        return left ? left : right;
    next = RtlSplay(splay_first(right));
    next->LeftChild = left;
    left->Parent = next;
    return next;
}

EXPORT void RtlInitializeGenericTable(GENERIC_TABLE *table, COMPARE_ROUTINE *compare, ALLOCATE_ROUTINE *allocate,
                                      FREE_ROUTINE *release, void *context)
{
    memset(table, 0, sizeof *table);
    table->InsertOrderList.Flink = table->InsertOrderList.Blink = &table->InsertOrderList;
    table->OrderedPointer = &table->InsertOrderList;
    table->CompareRoutine = compare;
    table->AllocateRoutine = allocate;
    table->FreeRoutine = release;
    table->TableContext = context;
}

static TABLE_SEARCH_RESULT splay_find(GENERIC_TABLE *table, void *buffer, SPLAY_LINKS **node)
{
    SPLAY_LINKS *at = table->TableRoot;

    *node = at;
    if (!at)
        return TableEmptyTree;
    for (;;) {
        RTL_GENERIC_COMPARE_RESULTS order = table->CompareRoutine(table, buffer, ((SPLAY_NODE *)at)->Data);
        SPLAY_LINKS *next = order == GenericLessThan ? at->LeftChild : at->RightChild;

        *node = at;
        if (order == GenericEqual)
            return TableFoundNode;
        if (!next)
            return order == GenericLessThan ? TableInsertAsLeft : TableInsertAsRight;
        at = next;
    }
}

EXPORT void *RtlInsertElementGenericTableFull(GENERIC_TABLE *table, void *buffer, uint32_t size, BOOLEAN *inserted,
                                              void *node_or_parent, TABLE_SEARCH_RESULT result)
{
    SPLAY_NODE *node = node_or_parent;

    if (result != TableFoundNode) {
        SPLAY_LINKS *parent = node_or_parent;
        LIST_ENTRY *head = &table->InsertOrderList;

        node = table->AllocateRoutine(table, (uint32_t)(size + sizeof(SPLAY_NODE)));
        if (!node) {
            if (inserted)
                *inserted = FALSE;
            return NULL;
        }
        memset(node, 0, sizeof *node);
        memcpy(node->Data, buffer, size);
        node->Order.Flink = head;
        node->Order.Blink = head->Blink;
        head->Blink->Flink = &node->Order;
        head->Blink = &node->Order;
        table->NumberGenericTableElements++;
        node->Splay.Parent = result == TableEmptyTree ? &node->Splay : parent;
        if (result == TableInsertAsLeft)
            parent->LeftChild = &node->Splay;
        else if (result == TableInsertAsRight)
            parent->RightChild = &node->Splay;
    }
    table->TableRoot = RtlSplay(&node->Splay);
    if (inserted)
        *inserted = result != TableFoundNode;
    return node->Data;
}

EXPORT void *RtlInsertElementGenericTable(GENERIC_TABLE *table, void *buffer, uint32_t size, BOOLEAN *inserted)
{
    SPLAY_LINKS *node;
    TABLE_SEARCH_RESULT result = splay_find(table, buffer, &node);

    return RtlInsertElementGenericTableFull(table, buffer, size, inserted, node, result);
}

EXPORT void *RtlLookupElementGenericTableFull(GENERIC_TABLE *table, void *buffer, void **node_or_parent,
                                              TABLE_SEARCH_RESULT *result)
{
    SPLAY_LINKS *node;

    *result = splay_find(table, buffer, &node);
    *node_or_parent = node;
    if (*result != TableFoundNode)
        return NULL;
    table->TableRoot = RtlSplay(node);
    return ((SPLAY_NODE *)node)->Data;
}

EXPORT void *RtlLookupElementGenericTable(GENERIC_TABLE *table, void *buffer)
{
    void *node;
    TABLE_SEARCH_RESULT result;

    return RtlLookupElementGenericTableFull(table, buffer, &node, &result);
}

EXPORT BOOLEAN RtlDeleteElementGenericTable(GENERIC_TABLE *table, void *buffer)
{
    SPLAY_LINKS *links;
    SPLAY_NODE *node;

    if (splay_find(table, buffer, &links) != TableFoundNode)
        return FALSE;
    node = (SPLAY_NODE *)links;
    table->TableRoot = RtlDelete(links);
    node->Order.Blink->Flink = node->Order.Flink;
    node->Order.Flink->Blink = node->Order.Blink;
    table->NumberGenericTableElements--;
    table->WhichOrderedElement = 0;
    table->OrderedPointer = &table->InsertOrderList;
    table->FreeRoutine(table, node);
    return TRUE;
}

EXPORT BOOLEAN RtlIsGenericTableEmpty(GENERIC_TABLE *table)
{
    return table->TableRoot == NULL;
}

EXPORT uint32_t RtlNumberGenericTableElements(GENERIC_TABLE *table)
{
    return table->NumberGenericTableElements;
}

EXPORT void *RtlEnumerateGenericTableWithoutSplaying(GENERIC_TABLE *table, void **restart)
{
    SPLAY_LINKS *node = *restart ? RtlRealSuccessor(*restart) : splay_first(table->TableRoot);

    if (!node)
        return NULL;
    *restart = node;
    return ((SPLAY_NODE *)node)->Data;
}

EXPORT void *RtlEnumerateGenericTable(GENERIC_TABLE *table, BOOLEAN from_start)
{
    SPLAY_LINKS *node;

    if (!table->TableRoot)
        return NULL;
    node = from_start ? splay_first(table->TableRoot) : RtlRealSuccessor(table->TableRoot);
    if (!node)
        return NULL;
    table->TableRoot = RtlSplay(node);
    return ((SPLAY_NODE *)node)->Data;
}

/* The element that was inserted as number `index`, of those still there. */
EXPORT void *RtlGetElementGenericTable(GENERIC_TABLE *table, uint32_t index)
{
    LIST_ENTRY *at = table->InsertOrderList.Flink;

    if (index >= table->NumberGenericTableElements)
        return NULL;
    while (index--)
        at = at->Flink;
    return ((SPLAY_NODE *)((uint8_t *)at - offsetof(SPLAY_NODE, Order)))->Data;
}
