/* Loaded into the database servers (LD_PRELOAD) to make every flush 1 ms slower, as a slower disk does. */
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void pause_1_ms(void)
{
    struct timespec left = {0, 1000000};
    /* A signal to the server must not shorten it. */
    while (nanosleep(&left, &left) == -1 && errno == EINTR)
        ;
}

int fsync(int fd)
{
    pause_1_ms();
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    pause_1_ms();
    return (int)syscall(SYS_fdatasync, fd);
}
