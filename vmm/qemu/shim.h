/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * shim.h - what the loader and a device module know of each other
 */
#ifndef EBB_SHIM_H
#define EBB_SHIM_H

#define EBB_SHIM_VERSION 1
#define EBB_MODULE_SYMBOL "ebb_module"

#define EBB_MODULE_TYPES 4

/* A type of QEMU's that the devices build upon, as the headers have it. */
struct ebb_module_type {
    const char *name;
    unsigned long class_bytes;
    unsigned long instance_bytes;
};

struct ebb_module {
    unsigned int shim_version;
    const char *build_id; /* of the QEMU it was built for, hex digits */
    void (*attach)(void); /* registers the devices; called before main() */
    struct ebb_module_type types[EBB_MODULE_TYPES];
};

#endif
