/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* log.h - lines for people; see log.c */
#ifndef EBB_LOG_H
#define EBB_LOG_H

#include <stdbool.h>
#include <syslog.h>

void log_open(bool debug);
__attribute__((format(printf, 2, 3))) void log_line(int priority, const char *format, ...);

#define log_error(...)	 log_line(LOG_ERR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_notice(...)	 log_line(LOG_NOTICE, __VA_ARGS__)
#define log_info(...)	 log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...)	 log_line(LOG_DEBUG, __VA_ARGS__)

#endif /* EBB_LOG_H */
