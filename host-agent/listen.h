/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* listen.h - ebbd's two listening sockets; see listen.c */
#ifndef EBB_LISTEN_H
#define EBB_LISTEN_H

#include "manager.h"

int listen_open(struct manager *manager);
void listen_close(struct manager *manager);
void socket_drain(int fd);

#endif /* EBB_LISTEN_H */
