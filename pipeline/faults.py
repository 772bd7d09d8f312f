"""What an error of the system says to who ran the command: the file, what it says, what to do."""

import errno

# of these no disk and no user is to blame
BUGS = {errno.EBADF, errno.EFAULT, errno.ESPIPE, errno.ENOTTY}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
BROKEN = {
    errno.EIO,
    errno.ENXIO,
    errno.ENODEV,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    *(
        getattr(errno, name)
        for name in ("EREMOTEIO", "ESTALE", "EHOSTDOWN")
        if hasattr(errno, name)
    ),
}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
TOO_MANY = {errno.EMFILE, errno.ENFILE}
FIXES = {
    frozenset(FULL): "free some space, or name another place; then run it again",
    frozenset(BROKEN): "check the disk, or the network that it is on; then run it again",
    frozenset(FORBIDDEN): "allow it there, or name another place",
    frozenset(TOO_MANY): "close other programs, or allow more open files (ulimit -n)",
    frozenset({errno.ENOMEM}): "close other programs, or use a machine with more memory",
    frozenset({errno.ENOENT, errno.ENOTDIR}): "check that it is there; then run it again",
}
OTHERWISE = "close what has it open, or name another place; then run it again"
# which no other than a disk says, so that they are its fault even where no file is named
OF_A_DISK = FULL | BROKEN | FORBIDDEN | TOO_MANY | {errno.ENOMEM}


def is_of_the_machine(error: OSError) -> bool:
    """Whether a disk, a permission or a wrong place is to blame, and no bug of ours."""
    if error.errno is None or error.errno in BUGS:
        return False
    return error.filename is not None or error.errno in OF_A_DISK


def fix_of(error: OSError) -> str:
    """What to do about an error of the machine."""
    return next((fix for codes, fix in FIXES.items() if error.errno in codes), OTHERWISE)
