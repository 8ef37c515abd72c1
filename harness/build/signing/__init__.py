"""Signing driver images: where the key comes from, how a signature is written, and how one is verified.

Each source of a key is a module of its own (`generated`, `pem_files`, `pkcs12_file`, `hardware_token`,
`external_command`); `configured` chooses one from ``[tool.ntproof.signing]``.
"""
