/* Says which calls of the C library are refused (EACCES, EPERM), on standard error:
 *
 *     cc -shared -fPIC -O1 -o refused.so refused.c -ldl
 *     LD_PRELOAD=./refused.so python3 work.py
 *
 * For machines without strace. Calls past the library are not seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int told(int result, const char *call, const char *what, long number) {
    int error = errno;
    if (result < 0 && (error == EACCES || error == EPERM)) {
        char line[600];
        int length = snprintf(line, sizeof line, "refused: %s(%s, 0x%lx) %s\n", call,
                              what ? what : "-", number, strerrorname_np(error));
        if (length > 0 && write(2, line, (size_t)length) < 0) { /* nobody listens */ }
    }
    errno = error;
    return result;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        REAL(int, #name, const char *, int, ...);                         \
        va_list more;                                                     \
        va_start(more, flags);                                            \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                     \
        return told(real(path, flags, mode), #name, path, flags);         \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                      \
    int name(int folder, const char *path, int flags, ...) {              \
        REAL(int, #name, int, const char *, int, ...);                    \
        va_list more;                                                     \
        va_start(more, flags);                                            \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                     \
        return told(real(folder, path, flags, mode), #name, path, flags); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                            \
    FILE *name(const char *path, const char *mode) {           \
        REAL(FILE *, #name, const char *, const char *);       \
        FILE *file = real(path, mode);                         \
        told(file ? 0 : -1, #name, path, 0);                   \
        return file;                                           \
    }
FOPEN(fopen)
FOPEN(fopen64)

int ioctl(int file, unsigned long request, ...) {
    REAL(int, "ioctl", int, unsigned long, ...);
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    return told(real(file, request, argument), "ioctl", NULL, (long)request);
}

int socket(int family, int kind, int protocol) {
    REAL(int, "socket", int, int, int);
    return told(real(family, kind, protocol), "socket", NULL, family);
}

int connect(int file, const struct sockaddr *address, socklen_t length) {
    REAL(int, "connect", int, const struct sockaddr *, socklen_t);
    const char *path = "-";
    if (address && address->sa_family == AF_UNIX && length > offsetof(struct sockaddr_un, sun_path))
        path = ((const struct sockaddr_un *)address)->sun_path;
    if (*path == 0) path = "abstract";
    return told(real(file, address, length), "connect", path, 0);
}

int bind(int file, const struct sockaddr *address, socklen_t length) {
    REAL(int, "bind", int, const struct sockaddr *, socklen_t);
    const char *path = "-";
    if (address && address->sa_family == AF_UNIX && length > offsetof(struct sockaddr_un, sun_path))
        path = ((const struct sockaddr_un *)address)->sun_path;
    if (*path == 0) path = "abstract";
    return told(real(file, address, length), "bind", path, 0);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return told(real(path, mode), "mkdir", path, mode);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return told(real(path), "unlink", path, 0);
}

int kill(pid_t pid, int number) {
    REAL(int, "kill", pid_t, int);
    return told(real(pid, number), "kill", NULL, pid);
}
