"""Images: unattended installation of Windows from a profile, and the store of what came of it."""
