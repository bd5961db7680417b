/* Tries ways out of a sandbox that a shell cannot, and writes `name refused` or `name allowed`. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static void told(const char *name, long result) {
    printf("%s %s\n", name, result < 0 ? "refused" : "allowed");
}

/* A sibling of another user cannot be traced, and the first process is not to be left. */
static void trace(void) {
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    /* Docker allows tracing what one has started. */
    told("trace-own", ptrace(PTRACE_ATTACH, child, 0, 0));
    kill(child, 9);
    waitpid(child, NULL, 0);
}

int main(void) {
    int fd;
    char memory[65536];
    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof event};
    struct { struct file_handle head; uint64_t inode; } handle = {{8, 1, {0}}, 2};

    fd = open("/dev/tty", O_RDWR);
    told("tiocsti", ioctl(fd < 0 ? 0 : fd, TIOCSTI, "x"));
    told("tioclinux", ioctl(0, 0x541c, "\2"));
    trace();
    for (const char *const *name = (const char *const[]){"mnt", "pid", "net", "user", "ipc", NULL}; *name; name++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/1/ns/%s", *name);
        fd = open(path, O_RDONLY);
        snprintf(path, sizeof path, "setns-%s", *name);
        told(path, fd < 0 ? fd : setns(fd, 0));
    }
    told("mknod-disk", mknod("/disk", S_IFBLK | 0600, makedev(253, 0)) < 0 ? -1 : open("/disk", O_RDONLY));
    told("mknod-mem", mknod("/mem", S_IFCHR | 0600, makedev(1, 1)) < 0 ? -1 : open("/mem", O_RDONLY));
    fd = open("/", O_RDONLY);
    told("open-by-handle", syscall(SYS_open_by_handle_at, fd, &handle, O_RDONLY));
    told("mount-api", syscall(SYS_fsopen, "tmpfs", 0));
    told("open-tree", syscall(SYS_open_tree, AT_FDCWD, "/", OPEN_TREE_CLONE));
    told("move-mount", syscall(SYS_move_mount, fd, "", AT_FDCWD, "/tmp", 4));
    told("pivot-root", syscall(SYS_pivot_root, "/", "/"));
    told("clone3", syscall(SYS_clone3, memory, 88));
    told("clone-newuser", syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0) < 0 ? -1 : getpid() == 1 ? 0 : 0);
    told("unshare-newuser", unshare(CLONE_NEWUSER));
    told("bpf", syscall(SYS_bpf, 0, memory, 48));
    told("perf", syscall(SYS_perf_event_open, &event, 0, -1, -1, 0));
    told("userfaultfd", syscall(SYS_userfaultfd, 0));
    told("io-uring", syscall(SYS_io_uring_setup, 1, memory));
    told("add-key", syscall(SYS_add_key, "user", "x", "y", 1, -3));
    told("keyctl", syscall(SYS_keyctl, 0, -3, 0));
    told("kexec", syscall(SYS_kexec_load, 0, 0, 0, 0));
    told("module", syscall(SYS_finit_module, fd, "", 0));
    told("syslog", syscall(SYS_syslog, 3, memory, 16));
    told("vsock", socket(40, SOCK_STREAM, 0));
    told("iopl", syscall(SYS_iopl, 3));
    told("quota", syscall(SYS_quotactl, 0x800002 << 8, 0, 0, memory));
    told("acct", syscall(SYS_acct, "/acct"));
    return 0;
}
