/* Generic tables that are AVL trees (ntddk.h, RTL_AVL_TABLE). */
#include "generic_table.h"

typedef struct _LINKS {
    struct _LINKS *Parent;
    struct _LINKS *LeftChild;
    struct _LINKS *RightChild;
    int8_t Balance; /* height of the right subtree less that of the left */
    uint8_t Reserved[7];
} LINKS;

typedef struct {
    LINKS BalancedRoot; /* its right child is the root of the tree */
    void *OrderedPointer;
    uint32_t WhichOrderedElement;
    uint32_t NumberGenericTableElements;
    uint32_t DepthOfTree;
    LINKS *RestartKey;
    uint32_t DeleteCount;
    COMPARE_ROUTINE *CompareRoutine;
    ALLOCATE_ROUTINE *AllocateRoutine;
    FREE_ROUTINE *FreeRoutine;
    void *TableContext;
} AVL_TABLE;

_Static_assert(sizeof(LINKS) == 0x20, "RTL_BALANCED_LINKS");
_Static_assert(sizeof(AVL_TABLE) == 0x68, "RTL_AVL_TABLE");

#define AVL_DATA(links) ((void *)((LINKS *)(links) + 1))

EXPORT void RtlInitializeGenericTableAvl(AVL_TABLE *table, COMPARE_ROUTINE *compare, ALLOCATE_ROUTINE *allocate,
                                         FREE_ROUTINE *release, void *context)
{
    memset(table, 0, sizeof *table);
    table->BalancedRoot.Parent = &table->BalancedRoot;
    table->CompareRoutine = compare;
    table->AllocateRoutine = allocate;
    table->FreeRoutine = release;
    table->TableContext = context;
}

static TABLE_SEARCH_RESULT avl_find(AVL_TABLE *table, void *buffer, LINKS **node)
{
    LINKS *at = table->BalancedRoot.RightChild;

    *node = at;
    if (!at)
        return TableEmptyTree;
    for (;;) {
        RTL_GENERIC_COMPARE_RESULTS order = table->CompareRoutine(table, buffer, AVL_DATA(at));
        LINKS *next = order == GenericLessThan ? at->LeftChild : at->RightChild;

        *node = at;
        if (order == GenericEqual)
            return TableFoundNode;
        if (!next)
            return order == GenericLessThan ? TableInsertAsLeft : TableInsertAsRight;
        at = next;
    }
}

static void avl_replace_child(LINKS *parent, LINKS *old, LINKS *new)
{
    if (parent->LeftChild == old)
        parent->LeftChild = new;
    else
        parent->RightChild = new;
    if (new)
        new->Parent = parent;
}

/* Lift a node above its parent. */
static void avl_rotate(LINKS *node)
{
    LINKS *parent = node->Parent, *inner;

    avl_replace_child(parent->Parent, parent, node);
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
    parent->Parent = node;
}

/* Bring a node whose balance is +2 or -2 (given as side) back; returns the node that took its place. */
static LINKS *avl_rebalance(LINKS *node, int side)
{
    LINKS *child = side > 0 ? node->RightChild : node->LeftChild;

    if (child->Balance == -side) {
        LINKS *grandchild = side > 0 ? child->LeftChild : child->RightChild;
        int lean = grandchild->Balance;

        avl_rotate(grandchild);
        avl_rotate(grandchild);
        node->Balance = (int8_t)(lean == side ? -side : 0);
        child->Balance = (int8_t)(lean == -side ? side : 0);
        grandchild->Balance = 0;
        return grandchild;
    }
    avl_rotate(child);
    node->Balance = (int8_t)(child->Balance ? 0 : side);
    child->Balance = (int8_t)(child->Balance ? 0 : -side);
    return child;
}

static void avl_grew(AVL_TABLE *table, LINKS *node)
{
    for (; node->Parent != &table->BalancedRoot; node = node->Parent) {
        LINKS *parent = node->Parent;
        int side = parent->RightChild == node ? 1 : -1;

        if (parent->Balance == side) {
            avl_rebalance(parent, side);
            return;
        }
        parent->Balance = (int8_t)(parent->Balance + side);
        if (!parent->Balance)
            return;
    }
    table->DepthOfTree++;
}

/* The subtree of parent on the given side became one lower. */
static void avl_shrank(AVL_TABLE *table, LINKS *parent, int side)
{
    while (parent != &table->BalancedRoot) {
        LINKS *top = parent;

        if (parent->Balance == -side) {
            top = avl_rebalance(parent, -side);
            if (top->Balance)
                return;
        } else {
            parent->Balance = (int8_t)(parent->Balance - side);
            if (parent->Balance)
                return;
        }
        parent = top->Parent;
        side = parent->RightChild == top ? 1 : -1;
    }
    table->DepthOfTree--;
}

EXPORT void *RtlInsertElementGenericTableFullAvl(AVL_TABLE *table, void *buffer, uint32_t size, BOOLEAN *inserted,
                                                 void *node_or_parent, TABLE_SEARCH_RESULT result)
{
    LINKS *parent = node_or_parent, *node;

    if (inserted)
        *inserted = FALSE;
    if (result == TableFoundNode)
        return AVL_DATA(parent);
    node = table->AllocateRoutine(table, (uint32_t)(size + sizeof(LINKS)));
    if (!node)
        return NULL;
    memset(node, 0, sizeof *node);
    memcpy(AVL_DATA(node), buffer, size);
    if (result == TableEmptyTree)
        parent = &table->BalancedRoot;
    node->Parent = parent;
    if (result == TableInsertAsLeft)
        parent->LeftChild = node;
    else
        parent->RightChild = node;
    table->NumberGenericTableElements++;
    table->OrderedPointer = NULL;
    table->WhichOrderedElement = 0;
    avl_grew(table, node);
    if (inserted)
        *inserted = TRUE;
    return AVL_DATA(node);
}

EXPORT void *RtlInsertElementGenericTableAvl(AVL_TABLE *table, void *buffer, uint32_t size, BOOLEAN *inserted)
{
    LINKS *node;
    TABLE_SEARCH_RESULT result = avl_find(table, buffer, &node);

    return RtlInsertElementGenericTableFullAvl(table, buffer, size, inserted, node, result);
}

EXPORT void *RtlLookupElementGenericTableFullAvl(AVL_TABLE *table, void *buffer, void **node_or_parent,
                                                 TABLE_SEARCH_RESULT *result)
{
    LINKS *node;

    *result = avl_find(table, buffer, &node);
    *node_or_parent = node;
    return *result == TableFoundNode ? AVL_DATA(node) : NULL;
}

EXPORT void *RtlLookupElementGenericTableAvl(AVL_TABLE *table, void *buffer)
{
    LINKS *node;

    return avl_find(table, buffer, &node) == TableFoundNode ? AVL_DATA(node) : NULL;
}

static LINKS *avl_first(LINKS *node)
{
    while (node && node->LeftChild)
        node = node->LeftChild;
    return node;
}

static LINKS *avl_next(AVL_TABLE *table, LINKS *node)
{
    if (node->RightChild)
        return avl_first(node->RightChild);
    while (node->Parent != &table->BalancedRoot && node->Parent->RightChild == node)
        node = node->Parent;
    return node->Parent == &table->BalancedRoot ? NULL : node->Parent;
}

/* Take a node out. One with two children first changes places with its successor, which has at most one. */
static void avl_unlink(AVL_TABLE *table, LINKS *node)
{
    LINKS *child, *parent;
    int side;

    if (node->LeftChild && node->RightChild) {
        LINKS *next = avl_first(node->RightChild);

        parent = next->Parent;
        child = next->RightChild;
        side = parent == node ? 1 : -1;
        if (parent == node) {
            parent = next;
        } else {
            parent->LeftChild = child;
            if (child)
                child->Parent = parent;
            next->RightChild = node->RightChild;
            next->RightChild->Parent = next;
        }
        next->LeftChild = node->LeftChild;
        next->LeftChild->Parent = next;
        next->Balance = node->Balance;
        avl_replace_child(node->Parent, node, next);
    } else {
        parent = node->Parent;
        side = parent->RightChild == node ? 1 : -1;
        avl_replace_child(parent, node, node->LeftChild ? node->LeftChild : node->RightChild);
    }
    avl_shrank(table, parent, side);
}

EXPORT BOOLEAN RtlDeleteElementGenericTableAvl(AVL_TABLE *table, void *buffer)
{
    LINKS *node;

    if (avl_find(table, buffer, &node) != TableFoundNode)
        return FALSE;
    if (table->RestartKey == node)
        table->RestartKey = NULL;
    table->DeleteCount++;
    avl_unlink(table, node);
    table->NumberGenericTableElements--;
    table->OrderedPointer = NULL;
    table->WhichOrderedElement = 0;
    table->FreeRoutine(table, node);
    return TRUE;
}

EXPORT BOOLEAN RtlIsGenericTableEmptyAvl(AVL_TABLE *table)
{
    return table->NumberGenericTableElements == 0;
}

EXPORT uint32_t RtlNumberGenericTableElementsAvl(AVL_TABLE *table)
{
    return table->NumberGenericTableElements;
}

EXPORT void *RtlEnumerateGenericTableWithoutSplayingAvl(AVL_TABLE *table, void **restart)
{
    LINKS *node = *restart ? avl_next(table, *restart) : avl_first(table->BalancedRoot.RightChild);

    if (!node)
        return NULL;
    *restart = node;
    return AVL_DATA(node);
}

EXPORT void *RtlEnumerateGenericTableAvl(AVL_TABLE *table, BOOLEAN from_start)
{
    void *at = from_start ? NULL : table->RestartKey;
    void *data = RtlEnumerateGenericTableWithoutSplayingAvl(table, &at);

    table->RestartKey = at;
    return data;
}

EXPORT void *RtlGetElementGenericTableAvl(AVL_TABLE *table, uint32_t index)
{
    LINKS *node;

    if (index >= table->NumberGenericTableElements)
        return NULL;
    if (table->OrderedPointer && table->WhichOrderedElement <= index) {
        node = table->OrderedPointer;
    } else {
        node = avl_first(table->BalancedRoot.RightChild);
        table->WhichOrderedElement = 0;
    }
    for (; table->WhichOrderedElement < index; table->WhichOrderedElement++)
        node = avl_next(table, node);
    table->OrderedPointer = node;
    return AVL_DATA(node);
}
