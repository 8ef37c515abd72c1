/* What the system says of a process that was just made: members of the answer to its launch. */
#pragma once

#include "json_answer.h"

/* The NT path that CreateProcessW opens for an application name: its own translation, before any search. */
void answer_image_name(ANSWER *answer, const TEXT *image);

/* The native path of the image, null where the system does not tell. */
void answer_native_image(ANSWER *answer, HANDLE process);

/* The command line as the new process has it: it has not run yet, so nothing has changed it. Where the system does not
 * tell, it is what was passed, and command_line_read says so. */
void answer_command_line(ANSWER *answer, HANDLE process, const TEXT *passed);

/* Who the system says the parent is. */
void answer_parent(ANSWER *answer, HANDLE process);
