/* The bare loop in C: see load/limit.py, which compiles and calls it. */

#include <sys/socket.h>
#include <sys/types.h>

/* Sends the bytes to each socket. Returns how many took all of them; it stops at the first that does not. */
int fan_out(const int *sockets, int count, const char *bytes, size_t size)
{
    int done = 0;

    while (done < count && send(sockets[done], bytes, size, MSG_NOSIGNAL) == (ssize_t)size)
        done++;
    return done;
}
