// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * module - what the loader finds in the device module
 *
 * The types are registered after QEMU's own exist and before its options are
 * read, so that help, QMP's lists and -device know them. Before that the sizes
 * of the types that ours are built upon are compared with the running QEMU's:
 * headers that do not fit would let the device write over foreign memory.
 *
 * Owns:    the entry point of the module.
 * Thread:  the main thread: attach() before main(), the rest early in it.
 * Locks:   none.
 * Never:   calls error_report(), which aborts this early.
 */
#include "compat.h"
#include "shim.h"
#include "trace.h"
#include "fronts.h"

/* The beginning of QEMU's private struct TypeImpl, since 2010. */
struct type_head {
    const char *name;
    size_t class_size;
    size_t instance_size;
};

extern const struct ebb_module ebb_module;

static bool type_fits(const struct ebb_module_type *built)
{
    ObjectClass *class = object_class_by_name(built->name);
    const struct type_head *running;

    if (!class) {
        fprintf(stderr,
                "ebb: this QEMU has no type %s; "
                "QEMU goes on without ebb's devices\n",
                built->name);
        return false;
    }
    running = (const void *)class->type;
    if (running->class_size == built->class_bytes &&
        running->instance_size == built->instance_bytes) {
        return true;
    }
    fprintf(stderr,
            "ebb: %s has sizes %zu and %zu in this QEMU, but %zu and "
            "%zu in the headers the module was built with (build ebb again "
            "with the headers of the installed QEMU); "
            "QEMU goes on without ebb's devices\n",
            built->name, running->class_size, running->instance_size,
            (size_t)built->class_bytes, (size_t)built->instance_bytes);
    return false;
}

static void register_devices(void)
{
    for (int i = 0; i < EBB_MODULE_TYPES; i++) {
        if (!type_fits(&ebb_module.types[i])) {
            return;
        }
    }
    ebb_trace_register();
    ebb_device_register();
    ebb_balloon_register();
    virtio_ebb_register();
    ebb_pci_register();
}

static void attach(void)
{
    register_module_init(register_devices, MODULE_INIT_MIGRATION);
}

__attribute__((visibility("default"))) const struct ebb_module ebb_module = {
    .shim_version = EBB_SHIM_VERSION,
    .build_id = EBB_QEMU_BUILD_ID,
    .attach = attach,
    .types = {
        { TYPE_DEVICE, sizeof(DeviceClass), sizeof(DeviceState) },
        { TYPE_PCI_DEVICE, sizeof(PCIDeviceClass), sizeof(PCIDevice) },
        { TYPE_VIRTIO_DEVICE, sizeof(VirtioDeviceClass), sizeof(VirtIODevice) },
        { TYPE_VIRTIO_PCI, sizeof(VirtioPCIClass), sizeof(VirtIOPCIProxy) },
    },
};
