// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * shim - load ebb's device module into an unmodified QEMU
 *
 * The wrapper preloads this library. It needs nothing but libc, so that it can
 * be loaded into any program; it acts only in a QEMU. There it looks up the
 * build-id of the program and loads the module that was built for it, which
 * lies beside this library under the name <build-id>.so. Whatever does not fit
 * is said on stderr, and QEMU goes on without the device.
 *
 * Owns:    nothing after its constructor has returned.
 * Thread:  the main thread, before main().
 * Locks:   none.
 * Never:   ends or changes a program; stays in LD_PRELOAD of QEMU's children.
 */
#include <dlfcn.h>
#include <elf.h>
#include <limits.h>
#include <link.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shim.h"

#define BUILD_ID_MAX_BYTES 32
#define BUILD_ID_HEX_BYTES (2 * BUILD_ID_MAX_BYTES + 1)

static void __attribute__((format(printf, 1, 2))) say(const char *fmt, ...)
{
    va_list ap;

    fputs("ebb: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputs("; QEMU goes on without ebb's devices\n", stderr);
}

/* Take @path out of LD_PRELOAD, so that children are left alone. */
static void leave_preload(const char *path)
{
    const char *old = getenv("LD_PRELOAD");
    char *list, *kept, *save = NULL, *item;

    if (!old) {
        return;
    }
    list = strdup(old);
    kept = calloc(1, strlen(old) + 1);
    if (!list || !kept) {
        free(list);
        free(kept);
        return;
    }
    for (item = strtok_r(list, ": ", &save); item;
         item = strtok_r(NULL, ": ", &save)) {
        if (strcmp(item, path) == 0) {
            continue;
        }
        if (*kept) {
            strcat(kept, ":");
        }
        strcat(kept, item);
    }
    if (*kept) {
        setenv("LD_PRELOAD", kept, 1);
    } else {
        unsetenv("LD_PRELOAD");
    }
    free(list);
    free(kept);
}

static size_t align4(size_t bytes)
{
    return (bytes + 3) & ~(size_t)3;
}

/* The GNU build-id among the notes of one segment, as hex digits. */
static bool note_build_id(const char *note, size_t bytes, char *hex)
{
    while (bytes >= sizeof(ElfW(Nhdr))) {
        const ElfW(Nhdr) *head = (const void *)note;
        size_t name_bytes = align4(head->n_namesz);
        size_t desc_bytes = align4(head->n_descsz);
        const char *name = note + sizeof(*head);
        const unsigned char *desc = (const void *)(name + name_bytes);

        if (sizeof(*head) + name_bytes + desc_bytes > bytes) {
            return false;
        }
        if (head->n_type == NT_GNU_BUILD_ID && head->n_namesz == 4 &&
            memcmp(name, "GNU", 4) == 0 &&
            head->n_descsz <= BUILD_ID_MAX_BYTES) {
            for (size_t i = 0; i < head->n_descsz; i++) {
                sprintf(hex + 2 * i, "%02x", desc[i]);
            }
            return head->n_descsz > 0;
        }
        note += sizeof(*head) + name_bytes + desc_bytes;
        bytes -= sizeof(*head) + name_bytes + desc_bytes;
    }
    return false;
}

/* The first object that dl_iterate_phdr() shows is the main program. */
static int main_program_build_id(struct dl_phdr_info *info, size_t size,
                                 void *hex)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];

        if (segment->p_type == PT_NOTE &&
            note_build_id((const char *)(info->dlpi_addr + segment->p_vaddr),
                          segment->p_memsz, hex)) {
            break;
        }
    }
    return 1;
}

static void load_module(const char *shim_path, const char *build_id)
{
    const char *slash = strrchr(shim_path, '/');
    const struct ebb_module *module;
    char path[PATH_MAX];
    void *handle;
    int len;

    len = snprintf(path, sizeof(path), "%.*s/%s.so",
                   slash ? (int)(slash - shim_path) : 1,
                   slash ? shim_path : ".", build_id);
    if (len < 0 || (size_t)len >= sizeof(path)) {
        say("the path of %s is too long", shim_path);
        return;
    }
    if (access(path, F_OK) != 0) {
        say("no module for this build of QEMU: %s is not there "
            "(build ebb again for the QEMU that is installed)",
            path);
        return;
    }
    handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        say("this QEMU does not fit the module: %s", dlerror());
        return;
    }
    module = dlsym(handle, EBB_MODULE_SYMBOL);
    if (!module || module->shim_version != EBB_SHIM_VERSION) {
        say("%s is no module of this version of ebb", path);
    } else if (strcmp(module->build_id, build_id) != 0) {
        say("%s was built for another QEMU (build-id %s)", path,
            module->build_id);
    } else {
        module->attach();
        return;
    }
    dlclose(handle);
}

static void __attribute__((constructor)) ebb_shim(void)
{
    char build_id[BUILD_ID_HEX_BYTES] = "";
    Dl_info self;

    if (!dlsym(RTLD_DEFAULT, "register_module_init") ||
        !dlsym(RTLD_DEFAULT, "virtio_pci_types_register")) {
        return; /* not a QEMU that has our kind of devices */
    }
    if (!dladdr((void *)ebb_shim, &self) || !self.dli_fname) {
        say("cannot tell where the loader itself lies");
        return;
    }
    leave_preload(self.dli_fname);
    dl_iterate_phdr(main_program_build_id, build_id);
    if (!*build_id) {
        say("this QEMU has no build-id");
        return;
    }
    load_module(self.dli_fname, build_id);
}
