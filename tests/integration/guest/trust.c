/* Writes what WinVerifyTrust answers for each file, a line each:
 *
 *     trust.exe IMAGE...
 *
 * Windows' own policy for drivers is not asked; WINTRUST_ACTION_GENERIC_VERIFY_V2 is Authenticode for any file. */

#include <windows.h>

#include <shellapi.h>
#include <softpub.h>
#include <wintrust.h>

void start(void);

static LONG Verify(const WCHAR *Path)
{
    GUID Action = WINTRUST_ACTION_GENERIC_VERIFY_V2;
    WINTRUST_FILE_INFO File = {0};
    WINTRUST_DATA Data = {0};
    LONG Answer;

    File.cbStruct = sizeof(File);
    File.pcwszFilePath = Path;
    Data.cbStruct = sizeof(Data);
    Data.dwUIChoice = WTD_UI_NONE;
    Data.fdwRevocationChecks = WTD_REVOKE_NONE;
    Data.dwUnionChoice = WTD_CHOICE_FILE;
    Data.pFile = &File;
    Data.dwStateAction = WTD_STATEACTION_VERIFY;
    Answer = WinVerifyTrust((HWND)INVALID_HANDLE_VALUE, &Action, &Data);
    Data.dwStateAction = WTD_STATEACTION_CLOSE;
    (void)WinVerifyTrust((HWND)INVALID_HANDLE_VALUE, &Action, &Data);
    return Answer;
}

static void WriteAnswer(LONG Answer)
{
    char Line[9];
    DWORD Written;
    int Index;

    for (Index = 0; Index < 8; Index++) {
        Line[Index] = "0123456789ABCDEF"[((ULONG)Answer >> (28 - 4 * Index)) & 0xF];
    }
    Line[8] = '\n';
    (void)WriteFile(GetStdHandle(STD_OUTPUT_HANDLE), Line, sizeof(Line), &Written, NULL);
}

void start(void)
{
    int Count;
    WCHAR **Arguments = CommandLineToArgvW(GetCommandLineW(), &Count);
    int Index;

    if (Arguments == NULL || Count < 2) {
        ExitProcess(2);
    }
    for (Index = 1; Index < Count; Index++) {
        WriteAnswer(Verify(Arguments[Index]));
    }
    ExitProcess(0);
}
