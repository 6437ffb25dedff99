/* A disk whose flush takes a millisecond more: preloaded into PostgreSQL, whose WAL is flushed by fdatasync. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

int fdatasync(int file)
{
    static int (*real)(int);
    struct timespec millisecond = {0, 1000000};
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    nanosleep(&millisecond, 0);
    return real(file);
}
