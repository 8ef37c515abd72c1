/*
 * The login shell of the guest's accounts: takes one command as Windows' cmd.exe would, and connects it to the process
 * that is the Windows of this guest. A call must start no interpreter, hence C.
 *
 *     standin-shell -c COMMAND
 *
 * COMMAND is the DOS path of a program, in quotation marks or not, or "standin-control ORDER". The first line over the
 * socket is the program's path, or the order; what follows is the program's input, and what comes back its output.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef FOLDER /* a test has its own folders */
#define FOLDER "/run/standin/"
#define ROOT "/"
#endif
#define CONTROL "standin-control "
#define UNREACHABLE 2
#define NOT_RECOGNIZED 1
#define LONGEST 4096

static int write_all(int descriptor, const char *data, size_t length)
{
    while (length) {
        ssize_t written = write(descriptor, data, length);

        if (written < 0) {
            if (errno == EINTR)
                continue;
            return -1;
        }
        data += written;
        length -= (size_t)written;
    }
    return 0;
}

static int not_recognized(const char *command)
{
    fprintf(stderr, "'%s' is not recognized as an internal or external command,\r\n"
                    "operable program or batch file.\r\n", command);
    return NOT_RECOGNIZED;
}

/* The program's path from a command line; quotation marks are taken off. */
static int program_of(const char *command, char path[LONGEST])
{
    size_t length;

    while (*command == ' ')
        command++;
    if (*command == '"') {
        command++;
        length = strcspn(command, "\"");
    } else {
        length = strcspn(command, " ");
    }
    if (length >= LONGEST)
        return -1;
    memcpy(path, command, length);
    path[length] = 0;
    return 0;
}

/* Whether drive C: has the file: ext4 looks it up there without regard to case. */
static int is_there(const char *path)
{
    char place[sizeof ROOT + LONGEST] = ROOT;
    char *letter = place + sizeof ROOT - 1;
    size_t index;

    if ((path[0] != 'C' && path[0] != 'c') || path[1] != ':' || path[2] != '\\')
        return 0;
    strcpy(letter, path);
    *letter = 'C';
    for (index = 0; place[index]; index++)
        if (place[index] == '\\')
            place[index] = '/';
    return access(place, F_OK) == 0;
}

static int connected(const char *name)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, FOLDER "%s", name);
    if (descriptor < 0 || connect(descriptor, (struct sockaddr *)&address, sizeof address) < 0)
        return -1;
    return descriptor;
}

/* Carries bytes both ways until the program has closed its output. */
static int relay(int program)
{
    static char buffer[1 << 16];
    struct pollfd watched[2] = {
        { .fd = STDIN_FILENO, .events = POLLIN },
        { .fd = program, .events = POLLIN },
    };

    for (;;) {
        if (poll(watched, 2, -1) < 0) {
            if (errno == EINTR)
                continue;
            return EXIT_FAILURE;
        }
        if (watched[1].revents) {
            ssize_t length = read(program, buffer, sizeof buffer);

            if (length <= 0)
                return length < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
            if (write_all(STDOUT_FILENO, buffer, (size_t)length))
                return EXIT_FAILURE;
        }
        if (watched[0].revents) {
            ssize_t length = read(STDIN_FILENO, buffer, sizeof buffer);

            if (length <= 0) {
                shutdown(program, SHUT_WR);
                watched[0].fd = -1;
            } else if (write_all(program, buffer, (size_t)length)) {
                return EXIT_FAILURE;
            }
        }
    }
}

int main(int count, char **arguments)
{
    char path[LONGEST];
    const char *command, *first, *socket_name;
    int program;

    if (count != 3 || strcmp(arguments[1], "-c") != 0)
        return not_recognized(count > 1 ? arguments[1] : "");
    command = arguments[2];
    if (strncmp(command, CONTROL, sizeof CONTROL - 1) == 0) {
        first = command + sizeof CONTROL - 1;
        socket_name = "control";
    } else {
        if (program_of(command, path) || !is_there(path))
            return not_recognized(command);
        first = path;
        socket_name = getuid() == 0 ? "administrator" : "standard-user";
    }
    program = connected(socket_name);
    if (program < 0) {
        fprintf(stderr, "%s: %s\r\n", socket_name, strerror(errno));
        return UNREACHABLE;
    }
    if (write_all(program, first, strlen(first)) || write_all(program, "\n", 1))
        return EXIT_FAILURE;
    return relay(program);
}
