/*
 * security.c - who may open the device.
 *
 * The DACL is set through a handle to the device object. It works without wdmsec.lib, and it is safe because a device
 * refuses opens while DO_DEVICE_INITIALIZING is set, which the I/O manager clears after DriverEntry has succeeded
 * (IoCreateDevice, wdm.h documentation).
 */
#include "procnotify_internal.h"

#define PN_MAXIMUM_SUBAUTHORITIES 2
#define PN_SID_BYTES (FIELD_OFFSET(SID, SubAuthority) + PN_MAXIMUM_SUBAUTHORITIES * sizeof(ULONG))
#define PN_ACE_BYTES (FIELD_OFFSET(ACCESS_ALLOWED_ACE, SidStart) + PN_SID_BYTES)

typedef union _PN_SID {
    SID Sid;
    UCHAR Bytes[PN_SID_BYTES];
} PN_SID, *PPN_SID;

typedef union _PN_ACL {
    ACL Acl;
    ULONG Alignment; /* of the ACEs behind the ACL */
    UCHAR Bytes[sizeof(ACL) + 2 * PN_ACE_BYTES];
} PN_ACL;

_IRQL_requires_(PASSIVE_LEVEL)
static NTSTATUS PnMakeSid(_Out_ PPN_SID Sid, _In_ UCHAR Count, _In_ ULONG First, _In_ ULONG Second)
{
    SID_IDENTIFIER_AUTHORITY authority = {SECURITY_NT_AUTHORITY};
    NTSTATUS status;

    status = RtlInitializeSid(&Sid->Sid, &authority, Count);
    if (NT_SUCCESS(status)) {
        *RtlSubAuthoritySid(&Sid->Sid, 0) = First;
        if (Count > 1) {
            *RtlSubAuthoritySid(&Sid->Sid, 1) = Second;
        }
    }
    return status;
}

_IRQL_requires_(PASSIVE_LEVEL)
static NTSTATUS PnMakeAcl(_Out_ PACL Acl, _In_ ULONG Length)
{
    PN_SID administrators;
    PN_SID system;
    NTSTATUS status;

    status = PnMakeSid(&system, 1, SECURITY_LOCAL_SYSTEM_RID, 0);
    if (NT_SUCCESS(status)) {
        status = PnMakeSid(&administrators, 2, SECURITY_BUILTIN_DOMAIN_RID, DOMAIN_ALIAS_RID_ADMINS);
    }
    if (NT_SUCCESS(status)) {
        status = RtlCreateAcl(Acl, Length, ACL_REVISION);
    }
    if (NT_SUCCESS(status)) {
        status = RtlAddAccessAllowedAce(Acl, ACL_REVISION, FILE_ALL_ACCESS, &system.Sid);
    }
    if (NT_SUCCESS(status)) {
        status = RtlAddAccessAllowedAce(Acl, ACL_REVISION, FILE_ALL_ACCESS, &administrators.Sid);
    }
    return status;
}

_Use_decl_annotations_
NTSTATUS PnRestrictDevice(PDEVICE_OBJECT Device)
{
    SECURITY_DESCRIPTOR descriptor;
    NTSTATUS status;
    HANDLE handle;
    PN_ACL acl;

    status = PnMakeAcl(&acl.Acl, sizeof(acl));
    if (NT_SUCCESS(status)) {
        status = RtlCreateSecurityDescriptor(&descriptor, SECURITY_DESCRIPTOR_REVISION);
    }
    if (NT_SUCCESS(status)) {
        status = RtlSetDaclSecurityDescriptor(&descriptor, TRUE, &acl.Acl, FALSE);
    }
    if (NT_SUCCESS(status)) {
        status = ObOpenObjectByPointer(Device, OBJ_KERNEL_HANDLE, NULL, WRITE_DAC, NULL, KernelMode, &handle);
    }
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = ZwSetSecurityObject(handle, DACL_SECURITY_INFORMATION, &descriptor);
    (VOID)ZwClose(handle);
    return status;
}
