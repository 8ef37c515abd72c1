/* ntguest.exe's operations: each reads a request, acts, and writes the members of its answer.
 *
 * A handler returns NULL for done, or the stable name of what went wrong in ASCII; a mistake in the request itself is
 * noted there (request_fail) and answered as bad-request. A Win32 error of the call that was asked for is no mistake:
 * it is ground truth, in the member `win32_error` of an ordinary answer. */
#pragma once

#include "json_answer.h"
#include "json_request.h"

typedef const char *OPERATION(REQUEST *request, ANSWER *answer);

/* Deadlines are milliseconds, at most this. */
#define DEADLINE_MAXIMUM 600000u
#define DEADLINE_DEFAULT 10000u

#define NAME_UNITS_MAXIMUM 128u

/* process_table.c: the job that every process dies with; closing ends those that could not be brought into it. */
BOOL processes_open(void);
void processes_close(void);

/* processes.c */
OPERATION process_launch;
OPERATION process_resume;
OPERATION process_exit;
OPERATION process_describe;
OPERATION process_terminate;
OPERATION process_terminate_all;
OPERATION process_wait;
OPERATION process_release;

/* devices.c */
OPERATION device_open;
OPERATION device_duplicate;
OPERATION device_close;
OPERATION device_control;
OPERATION device_read;
OPERATION device_write;
OPERATION device_start;
OPERATION device_finish;
OPERATION device_cancel;

/* streams.c */
OPERATION stream_start;
OPERATION stream_stop;

/* Whether a stream's thread may still use this handle. */
BOOL stream_runs_on(HANDLE device);

/* services.c */
OPERATION service_create;
OPERATION service_delete;
OPERATION service_start;
OPERATION service_stop;
OPERATION service_query;
OPERATION service_clear_parameters;
OPERATION service_set_parameter;

/* files.c */
OPERATION file_provide;
OPERATION file_remove;
