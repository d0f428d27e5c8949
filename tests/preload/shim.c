/* Preloaded into a process under test: records what it does to the files of one folder, in the order
   in which it happens, and makes a chosen fsync fail or the clock differ.

   KITARU_TEST_SHIM_FOLDER   only files below this folder count
   KITARU_TEST_SHIM_LOG      where the record is written (nothing is recorded without it)
   KITARU_TEST_SHIM_FAIL     "suffix:n": the n-th sync of files whose name ends so fails with EIO;
                             "suffix:n+": that one and all that follow
   KITARU_TEST_SHIM_WRITES   a file: while it exists, writes fail with the errno that stands in it
   KITARU_TEST_SHIM_CLOCK    microseconds to add to the real-time clock

   While something is recorded, no sync reaches the disk.

   A record is one byte of kind, then numbers of 8 bytes each, then bytes:
   O fd length path | C fd | W fd offset length bytes | T fd size | S fd ok | U length path |
   R length path length path */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define MOST_FDS 1024

static char *paths[MOST_FDS];
static const char *folder;
static const char *fail_suffix;
static long fail_at, failing_on, syncs_seen;
static long clock_offset_us;
static const char *refusal;
static int log_fd = -1;
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

__attribute__((constructor)) static void begin(void) {
    folder = getenv("KITARU_TEST_SHIM_FOLDER");
    const char *log = getenv("KITARU_TEST_SHIM_LOG");
    if (log) log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    const char *offset = getenv("KITARU_TEST_SHIM_CLOCK");
    if (offset) clock_offset_us = atol(offset);
    refusal = getenv("KITARU_TEST_SHIM_WRITES");
    const char *fail = getenv("KITARU_TEST_SHIM_FAIL");
    if (fail) {
        const char *colon = strrchr(fail, ':');
        fail_suffix = strndup(fail, colon - fail);
        fail_at = atol(colon + 1);
        failing_on = fail[strlen(fail) - 1] == '+';
    }
}

static void put(const void *data, size_t size) {
    const char *rest = data;
    while (size > 0) {
        ssize_t done = syscall(SYS_write, log_fd, rest, size);
        if (done <= 0) abort();
        rest += done;
        size -= done;
    }
}

static void record(char kind, int count, const int64_t *numbers, const void *data, size_t size) {
    if (log_fd < 0) return;
    char head[64];
    head[0] = kind;
    memcpy(head + 1, numbers, 8 * count);
    put(head, 1 + 8 * count);
    if (size) put(data, size);
}

/* Why a write fails now: an errno; 0: it does not. */
static int refused(void) {
    char text[16] = {0};
    if (!refusal) return 0;
    int fd = syscall(SYS_openat, AT_FDCWD, refusal, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t size = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    return size > 0 ? atoi(text) : 0;
}

#define REFUSE() int why = refused(); if (why) { pthread_mutex_unlock(&lock); errno = why; return -1; }

static int counts(const char *path) {
    return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static const char *path_of(int fd) { return fd >= 0 && fd < MOST_FDS ? paths[fd] : NULL; }

static int opened(int fd, const char *path) {
    if (fd >= 0 && fd < MOST_FDS && counts(path)) {
        free(paths[fd]);
        paths[fd] = strdup(path);
        record('O', 2, (int64_t[]){fd, strlen(path)}, path, strlen(path));
    }
    return fd;
}

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, name)
#define MODE(flags) int mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, int); va_end(more); }

#define OPEN(symbol)                                                     \
    int symbol(const char *path, int flags, ...) {                       \
        REAL(int, #symbol, const char *, int, ...);                      \
        MODE(flags)                                                      \
        pthread_mutex_lock(&lock);                                       \
        int fd = opened(real(path, flags, mode), path);                  \
        pthread_mutex_unlock(&lock);                                     \
        return fd;                                                       \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(symbol)                                                   \
    int symbol(int at, const char *path, int flags, ...) {               \
        REAL(int, #symbol, int, const char *, int, ...);                 \
        MODE(flags)                                                      \
        pthread_mutex_lock(&lock);                                       \
        int fd = opened(real(at, path, flags, mode), path);              \
        pthread_mutex_unlock(&lock);                                     \
        return fd;                                                       \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    REAL(int, "close", int);
    pthread_mutex_lock(&lock);
    if (path_of(fd)) {
        record('C', 1, (int64_t[]){fd}, NULL, 0);
        free(paths[fd]);
        paths[fd] = NULL;
    }
    int result = real(fd);
    pthread_mutex_unlock(&lock);
    return result;
}

static void wrote(int fd, int64_t offset, const void *data, ssize_t size) {
    if (size > 0) record('W', 3, (int64_t[]){fd, offset, size}, data, size);
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!path_of(fd)) return real(fd, data, size);
    pthread_mutex_lock(&lock);
    REFUSE()
    int appending = fcntl(fd, F_GETFL) & O_APPEND;
    int64_t offset = lseek(fd, 0, appending ? SEEK_END : SEEK_CUR);
    ssize_t done = real(fd, data, size);
    wrote(fd, offset, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}

#define PWRITE(symbol, type)                                             \
    ssize_t symbol(int fd, const void *data, size_t size, type offset) { \
        REAL(ssize_t, #symbol, int, const void *, size_t, type);         \
        if (!path_of(fd)) return real(fd, data, size, offset);           \
        pthread_mutex_lock(&lock);                                       \
        REFUSE()                                                         \
        ssize_t done = real(fd, data, size, offset);                     \
        wrote(fd, offset, data, done);                                   \
        pthread_mutex_unlock(&lock);                                     \
        return done;                                                     \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define FTRUNCATE(symbol, type)                                          \
    int symbol(int fd, type size) {                                      \
        REAL(int, #symbol, int, type);                                   \
        pthread_mutex_lock(&lock);                                       \
        int result = real(fd, size);                                     \
        if (result == 0 && path_of(fd)) record('T', 2, (int64_t[]){fd, size}, NULL, 0); \
        pthread_mutex_unlock(&lock);                                     \
        return result;                                                   \
    }
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

static int is_to_fail(const char *path) {
    size_t size = strlen(path), suffix = fail_suffix ? strlen(fail_suffix) : 0;
    if (!fail_suffix || size < suffix || strcmp(path + size - suffix, fail_suffix)) return 0;
    syncs_seen++;
    return failing_on ? syncs_seen >= fail_at : syncs_seen == fail_at;
}

static int synced(int fd, int (*real)(int)) {
    if (!path_of(fd)) return real(fd);
    pthread_mutex_lock(&lock);
    int result, error = 0;
    if (is_to_fail(path_of(fd))) {
        result = -1;
        error = EIO;
    } else {
        /* While it is recorded, the disk is left out: what counts is that it was asked for. */
        result = log_fd < 0 ? real(fd) : 0;
        error = errno;
    }
    record('S', 2, (int64_t[]){fd, result == 0}, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return synced(fd, real);
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return synced(fd, real);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    pthread_mutex_lock(&lock);
    int result = real(path);
    if (result == 0 && counts(path)) record('U', 1, (int64_t[]){strlen(path)}, path, strlen(path));
    pthread_mutex_unlock(&lock);
    return result;
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    pthread_mutex_lock(&lock);
    int result = real(from, to);
    if (result == 0 && counts(to)) {
        record('R', 1, (int64_t[]){strlen(from)}, from, strlen(from));
        int64_t size = strlen(to);
        if (log_fd >= 0) {
            put(&size, 8);
            put(to, size);
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, which, now);
    if (result == 0 && which == CLOCK_REALTIME && clock_offset_us) {
        int64_t us = now->tv_sec * 1000000LL + now->tv_nsec / 1000 + clock_offset_us;
        now->tv_nsec = us % 1000000 * 1000 + now->tv_nsec % 1000;
        now->tv_sec = us / 1000000;
    }
    return result;
}
