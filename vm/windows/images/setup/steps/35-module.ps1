# Installs the module through which the guest is driven later, so that no session has to send it first.

[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [psobject] $Data
)

if ($Data.guest_module) {
    $source = Join-Path -Path (Split-Path -Path $PSScriptRoot -Parent) -ChildPath 'guest'
    $target = Join-Path -Path $env:ProgramFiles -ChildPath ('WindowsPowerShell\Modules\' + $Data.guest_module)
    New-Item -Path $target -ItemType Directory -Force | Out-Null
    Get-ChildItem -LiteralPath $source | Copy-Item -Destination $target -Force
    foreach ($file in Get-ChildItem -LiteralPath $target) {
        # What comes from a CD is read-only, and a later version of the module could not take its place.
        Set-ItemProperty -LiteralPath $file.FullName -Name 'IsReadOnly' -Value $false
    }
}
