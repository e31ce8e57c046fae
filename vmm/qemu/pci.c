// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pci - virtio-ebb-pci and virtio-ebb-balloon-pci
 *
 * Owns:    the PCI proxies of both devices.
 * Thread:  the main thread, with the big lock.
 * Locks:   none.
 * Never:   sees a request.
 */
#include "compat.h"
#include "fronts.h"

#define TYPE_VIRTIO_EBB_PCI "virtio-ebb-pci-base"
#define TYPE_EBB_BALLOON_PCI "virtio-ebb-balloon-pci-base"

#define PCI_DEVICE_ID_EBB (PCI_DEVICE_ID_VIRTIO_10_BASE + VIRTIO_ID_EBB)

typedef struct VirtioEbbPCI {
    VirtIOPCIProxy parent_obj;
    VirtioEbb ebb;
} VirtioEbbPCI;

typedef struct EbbBalloonPCI {
    VirtIOPCIProxy parent_obj;
    EbbBalloon balloon;
} EbbBalloonPCI;

DECLARE_INSTANCE_CHECKER(VirtioEbbPCI, VIRTIO_EBB_PCI, TYPE_VIRTIO_EBB_PCI)
DECLARE_INSTANCE_CHECKER(EbbBalloonPCI, EBB_BALLOON_PCI, TYPE_EBB_BALLOON_PCI)

/* One vector for each queue and one for the configuration. */
static void default_vectors(VirtIOPCIProxy *proxy, uint32_t queues)
{
    if (proxy->nvectors == (uint32_t)DEV_NVECTORS_UNSPECIFIED) {
        proxy->nvectors = queues + 1;
    }
}

static void ebb_pci_realize(VirtIOPCIProxy *proxy, Error **errp)
{
    VirtioEbbPCI *dev = VIRTIO_EBB_PCI(proxy);

    default_vectors(proxy, VIRTIO_EBB_VQ_MAX);
    proxy->class_code = PCI_CLASS_OTHERS;
    virtio_pci_force_virtio_1(proxy);
    if (qdev_realize(DEVICE(&dev->ebb), BUS(&proxy->bus), errp)) {
        /* QEMU's own table of virtio devices does not know the ID. */
        pci_set_word(proxy->pci_dev.config + PCI_DEVICE_ID, PCI_DEVICE_ID_EBB);
    }
}

static void balloon_pci_realize(VirtIOPCIProxy *proxy, Error **errp)
{
    EbbBalloonPCI *dev = EBB_BALLOON_PCI(proxy);

    default_vectors(proxy, EBB_BALLOON_QUEUES);
    proxy->class_code = PCI_CLASS_OTHERS;
    qdev_realize(DEVICE(&dev->balloon), BUS(&proxy->bus), errp);
}

EBB_PROPERTIES(pci_properties) = {
    DEFINE_PROP_BIT("ioeventfd", VirtIOPCIProxy, flags,
                    VIRTIO_PCI_FLAG_USE_IOEVENTFD_BIT, false),
    DEFINE_PROP_UINT32("vectors", VirtIOPCIProxy, nvectors,
                       DEV_NVECTORS_UNSPECIFIED),
    EBB_PROPERTIES_END
};

static void init_class(ObjectClass *class, uint16_t device_id,
                       const char *description)
{
    DeviceClass *dc = DEVICE_CLASS(class);
    PCIDeviceClass *pdc = PCI_DEVICE_CLASS(class);

    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    dc->desc = description;
    device_class_set_props(dc, pci_properties);
    pdc->vendor_id = PCI_VENDOR_ID_REDHAT_QUMRANET;
    pdc->device_id = device_id;
    pdc->revision = VIRTIO_PCI_ABI_VERSION;
    pdc->class_id = PCI_CLASS_OTHERS;
}

static void ebb_pci_class_init(ObjectClass *class, EbbClassData *data)
{
    init_class(class, PCI_DEVICE_ID_EBB,
               "ebb: free memory is volatile on the host");
    VIRTIO_PCI_CLASS(class)->realize = ebb_pci_realize;
}

static void balloon_pci_class_init(ObjectClass *class, EbbClassData *data)
{
    init_class(
        class, PCI_DEVICE_ID_VIRTIO_BALLOON,
        "ebb for unmodified guests: a virtio-balloon that takes reports");
    VIRTIO_PCI_CLASS(class)->realize = balloon_pci_realize;
}

static void ebb_pci_instance_init(Object *obj)
{
    VirtioEbbPCI *dev = VIRTIO_EBB_PCI(obj);

    virtio_instance_init_common(obj, &dev->ebb, sizeof(dev->ebb),
                                TYPE_VIRTIO_EBB);
    ebb_device_alias_properties(obj, OBJECT(&dev->ebb));
}

static void balloon_pci_instance_init(Object *obj)
{
    EbbBalloonPCI *dev = EBB_BALLOON_PCI(obj);

    virtio_instance_init_common(obj, &dev->balloon, sizeof(dev->balloon),
                                TYPE_EBB_BALLOON);
    ebb_device_alias_properties(obj, OBJECT(&dev->balloon));
    ebb_device_alias_property(obj, OBJECT(&dev->balloon),
                              "guest-stats-polling-interval");
}

static const VirtioPCIDeviceTypeInfo ebb_pci_info = {
    .base_name = TYPE_VIRTIO_EBB_PCI,
    .generic_name = "virtio-ebb-pci",
    .instance_size = sizeof(VirtioEbbPCI),
    .instance_init = ebb_pci_instance_init,
    .class_init = ebb_pci_class_init,
};

static const VirtioPCIDeviceTypeInfo balloon_pci_info = {
    .base_name = TYPE_EBB_BALLOON_PCI,
    .generic_name = "virtio-ebb-balloon-pci",
    .instance_size = sizeof(EbbBalloonPCI),
    .instance_init = balloon_pci_instance_init,
    .class_init = balloon_pci_class_init,
};

void ebb_pci_register(void)
{
    virtio_pci_types_register(&ebb_pci_info);
    virtio_pci_types_register(&balloon_pci_info);
}
