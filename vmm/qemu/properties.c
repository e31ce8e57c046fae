// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * properties - what QMP sees of a device: mode, statistics, release by hand
 *
 *   qom-set PATH mode lazy            how free memory is treated, at any time
 *   qom-set PATH merge hinted         what KSM may merge, at any time
 *   qom-get PATH ebb-stats            what the executor has done
 *   qom-get PATH ebb-regions          the guest's RAM and its backing
 *   qom-get PATH guest-stats          the guest's own words
 *   qom-set PATH release 1073741824   ask the guest for free memory now
 *   qom-set PATH purge 1073741824     let memory with content go now
 *   qom-set PATH collect true         collect empty page tables now
 *   qom-set PATH page-tables background   and now and then
 *
 * Owns:    nothing.
 * Thread:  the main thread, with the big lock.
 * Locks:   none.
 * Never:   touches a queue.
 */
#include "compat.h"
#include "device.h"

typedef enum EbbMode {
    EBB_QOM_MODE_AUTO, /* the default of a new device */
    EBB_QOM_MODE_LAZY,
    EBB_QOM_MODE_EAGER,
    EBB_QOM_MODE_OFF,
    EBB_QOM_MODE_MAX
} EbbMode;

static const char *const mode_names[] = { [EBB_QOM_MODE_LAZY] = "lazy",
                                          [EBB_QOM_MODE_EAGER] = "eager",
                                          [EBB_QOM_MODE_AUTO] = "auto",
                                          [EBB_QOM_MODE_OFF] = "off",
                                          NULL };

static const QEnumLookup mode_lookup = {
    .array = mode_names,
    .size = EBB_QOM_MODE_MAX,
};

static const char *const stage_names[] = {
    [EBB_STAGE_PLENTY] = "plenty",
    [EBB_STAGE_NEARING] = "nearing",
    [EBB_STAGE_SHORT] = "short",
};

static const char *const reason_names[] = {
    [VIRTIO_EBB_REASON_NONE] = "not-marked-other-bytes",
    [VIRTIO_EBB_REASON_OFF] = "not-marked-off-bytes",
    [VIRTIO_EBB_REASON_REST] = "not-marked-rest-bytes",
    [VIRTIO_EBB_REASON_FRAGMENT] = "not-marked-fragment-bytes",
    [VIRTIO_EBB_REASON_INHIBITED] = "not-marked-inhibited-bytes",
    [VIRTIO_EBB_REASON_BACKING] = "not-marked-backing-bytes",
    [VIRTIO_EBB_REASON_POISON] = "not-marked-poison-bytes",
    [VIRTIO_EBB_REASON_FAILED] = "not-marked-failed-bytes",
    [VIRTIO_EBB_REASON_CANCELLED] = "not-marked-cancelled-bytes",
};

static const char *const guest_names[] = {
    [VIRTIO_EBB_S_TOTAL] = "total-bytes",
    [VIRTIO_EBB_S_FREE] = "free-bytes",
    [VIRTIO_EBB_S_AVAILABLE] = "available-bytes",
    [VIRTIO_EBB_S_CACHED] = "cached-bytes",
    [VIRTIO_EBB_S_REPORTED] = "reported-bytes",
    [VIRTIO_EBB_S_REUSED] = "reused-bytes",
    [VIRTIO_EBB_S_OOM_EVENTS] = "oom-events",
    [VIRTIO_EBB_S_FLAGS] = "flags",
    [VIRTIO_EBB_S_VOLATILE] = "volatile-bytes",
    [VIRTIO_EBB_S_TAKEN_WHOLE] = "taken-whole-pages",
    [VIRTIO_EBB_S_TAKEN_PURGED] = "taken-purged-pages",
    [VIRTIO_EBB_S_HINTED] = "hinted-bytes",
    [VIRTIO_EBB_S_HINT_CACHE] = "hint-cache-bytes",
    [VIRTIO_EBB_S_HINT_PASSES] = "hint-passes",
    [VIRTIO_EBB_S_HINT_USEC] = "hint-usec",
};

static const char *const merge_names[] = {
    [EBB_MERGE_KEEP] = "keep",
    [EBB_MERGE_OFF] = "off",
    [EBB_MERGE_HINTED] = "hinted",
    [EBB_MERGE_ALL] = "all",
    NULL,
};

static const QEnumLookup merge_lookup = {
    .array = merge_names,
    .size = EBB_MERGE_MAX,
};

static uint32_t core_mode(int mode)
{
    switch ((EbbMode)mode) {
    case EBB_QOM_MODE_LAZY:
        return EBB_MODE_LAZY;
    case EBB_QOM_MODE_EAGER:
        return EBB_MODE_EAGER;
    case EBB_QOM_MODE_AUTO:
        return EBB_MODE_AUTO;
    case EBB_QOM_MODE_OFF:
    case EBB_QOM_MODE_MAX:
        return EBB_MODE_OFF;
    }
    return EBB_MODE_OFF;
}

static const char *core_mode_name(uint32_t mode)
{
    for (int i = 0; i < EBB_QOM_MODE_MAX; i++) {
        if (core_mode(i) == mode) {
            return mode_names[i];
        }
    }
    return "unknown";
}

uint32_t ebb_device_core_mode(EbbDevice *dev)
{
    return core_mode(dev->mode);
}

static int get_mode(Object *obj, Error **errp)
{
    return EBB_DEVICE(obj)->mode;
}

static void set_mode(Object *obj, int mode, Error **errp)
{
    EbbDevice *dev = EBB_DEVICE(obj);

    if (dev->executor) {
        int ret = ebb_executor_set_mode(dev->executor, core_mode(mode));

        if (ret < 0) {
            error_setg_errno(errp, -ret, "could not set mode '%s'",
                             mode_names[mode]);
            return;
        }
    }
    dev->mode = mode;
}

typedef enum EbbTablesMode {
    EBB_QOM_TABLES_ON_DEMAND, /* the default of a new device */
    EBB_QOM_TABLES_BACKGROUND,
    EBB_QOM_TABLES_OFF,
    EBB_QOM_TABLES_MAX
} EbbTablesMode;

static const char *const tables_names[] = { [EBB_QOM_TABLES_ON_DEMAND] =
                                                "on-demand",
                                            [EBB_QOM_TABLES_BACKGROUND] =
                                                "background",
                                            [EBB_QOM_TABLES_OFF] = "off",
                                            NULL };

static const QEnumLookup tables_lookup = {
    .array = tables_names,
    .size = EBB_QOM_TABLES_MAX,
};

static const uint32_t core_tables_modes[] = {
    [EBB_QOM_TABLES_ON_DEMAND] = EBB_TABLES_ON_DEMAND,
    [EBB_QOM_TABLES_BACKGROUND] = EBB_TABLES_BACKGROUND,
    [EBB_QOM_TABLES_OFF] = EBB_TABLES_OFF,
};

uint32_t ebb_device_core_tables_mode(EbbDevice *dev)
{
    return core_tables_modes[dev->tables_mode];
}

static const char *core_tables_name(uint32_t mode)
{
    for (int i = 0; i < EBB_QOM_TABLES_MAX; i++) {
        if (core_tables_modes[i] == mode) {
            return tables_names[i];
        }
    }
    return "unknown";
}

static int get_tables_mode(Object *obj, Error **errp)
{
    return EBB_DEVICE(obj)->tables_mode;
}

static void set_tables_mode(Object *obj, int mode, Error **errp)
{
    EbbDevice *dev = EBB_DEVICE(obj);

    dev->tables_mode = mode;
    if (dev->executor) {
        ebb_executor_set_tables_mode(dev->executor, core_tables_modes[mode]);
    }
}

static int get_merge(Object *obj, Error **errp)
{
    return EBB_DEVICE(obj)->merge;
}

static void set_merge(Object *obj, int merge, Error **errp)
{
    EbbDevice *dev = EBB_DEVICE(obj);

    if (dev->executor) {
        int ret = ebb_executor_set_merge(dev->executor, merge);

        if (ret < 0) {
            error_setg_errno(errp, -ret, "could not set merge '%s'",
                             merge_names[merge]);
            return;
        }
    }
    dev->merge = merge;
}

static bool visit_u64(Visitor *v, const char *name, uint64_t value,
                      Error **errp)
{
    return visit_type_uint64(v, name, &value, errp);
}

static bool visit_flag(Visitor *v, const char *name, bool value, Error **errp)
{
    return visit_type_bool(v, name, &value, errp);
}

static bool visit_text(Visitor *v, const char *name, const char *value,
                       Error **errp)
{
    char *text = (char *)value;

    return visit_type_str(v, name, &text, errp);
}

static bool visit_counters(Visitor *v, const struct ebb_counters *counters,
                           Error **errp)
{
    if (!visit_u64(v, "requests", counters->requests, errp) ||
        !visit_u64(v, "ranges", counters->ranges, errp) ||
        !visit_u64(v, "violations", counters->violations, errp) ||
        !visit_u64(v, "marked-bytes", counters->marked_bytes, errp) ||
        !visit_u64(v, "discarded-bytes", counters->discarded_bytes, errp) ||
        !visit_u64(v, "purged-seen-bytes", counters->purged_seen_bytes, errp) ||
        !visit_u64(v, "released-bytes", counters->released_bytes, errp) ||
        !visit_u64(v, "releases", counters->releases, errp) ||
        !visit_u64(v, "content-marked-bytes", counters->content_marked_bytes,
                   errp) ||
        !visit_u64(v, "content-purged-bytes", counters->content_purged_bytes,
                   errp) ||
        !visit_u64(v, "notices", counters->notices, errp) ||
        !visit_u64(v, "purges", counters->purges, errp) ||
        !visit_u64(v, "collections", counters->collections, errp) ||
        !visit_u64(v, "passes", counters->passes, errp) ||
        !visit_u64(v, "tables-found", counters->tables_found, errp) ||
        !visit_u64(v, "tables-asked", counters->tables_asked, errp) ||
        !visit_u64(v, "tables-offered", counters->tables_offered, errp) ||
        !visit_u64(v, "tables-freed", counters->tables_freed, errp) ||
        !visit_u64(v, "tables-refused", counters->tables_refused, errp) ||
        !visit_u64(v, "tables-failed", counters->tables_failed, errp) ||
        !visit_u64(v, "tables-unplugged", counters->tables_unplugged, errp) ||
        !visit_u64(v, "madvise-calls", counters->madvise_calls, errp) ||
        !visit_u64(v, "madvise-nsec", counters->madvise_nsec, errp)) {
        return false;
    }
    for (int i = 0; i < VIRTIO_EBB_REASON_MAX; i++) {
        if (!visit_u64(v, reason_names[i], counters->not_marked_bytes[i],
                       errp)) {
            return false;
        }
    }
    return true;
}

static bool visit_skipped(Visitor *v, const uint64_t *bytes, Error **errp)
{
    static const char *const names[EBB_SKIPPED_MAX] = {
        [EBB_SKIPPED_OTHER] = "skipped-other-bytes",
        [EBB_SKIPPED_LOCKED] = "skipped-locked-bytes",
        [EBB_SKIPPED_HUGETLB] = "skipped-hugetlb-bytes",
        [EBB_SKIPPED_SHARED] = "skipped-shared-bytes",
        [EBB_SKIPPED_FILE] = "skipped-file-bytes",
    };

    for (int i = 0; i < EBB_SKIPPED_MAX; i++) {
        if (!visit_u64(v, names[i], bytes[i], errp)) {
            return false;
        }
    }
    return true;
}

static bool visit_status(Visitor *v, const struct ebb_status *status,
                         Error **errp)
{
    const char *stage = status->stage > 0 && status->stage < EBB_STAGE_MAX
                            ? stage_names[status->stage]
                            : "unknown";

    return visit_text(v, "mode", core_mode_name(status->mode), errp) &&
           visit_text(v, "stage", stage, errp) &&
           visit_flag(v, "driver", status->driver, errp) &&
           visit_flag(v, "broken", status->broken, errp) &&
           visit_flag(v, "inhibited", status->inhibited, errp) &&
           visit_flag(v, "mergeable", status->mergeable, errp) &&
           visit_flag(v, "hardened", status->hardened, errp) &&
           visit_flag(v, "agent-connected", status->connected, errp) &&
           visit_flag(v, "reporting",
                      status->guidance.reporting == VIRTIO_EBB_REPORTING_RUN,
                      errp) &&
           visit_text(v, "page-tables", core_tables_name(status->tables_mode),
                      errp) &&
           visit_flag(v, "can-collect", status->can_collect, errp) &&
           visit_flag(v, "moves-tables", status->moves_tables, errp) &&
           visit_u64(v, "skipped-ram-bytes", status->skipped_ram_bytes, errp) &&
           visit_skipped(v, status->skipped_by_bytes, errp) &&
           visit_u64(v, "content-block-bytes", status->content_block_bytes,
                     errp) &&
           visit_u64(v, "ram-bytes", status->ram_bytes, errp) &&
           visit_u64(v, "refused-ram-bytes", status->refused_ram_bytes, errp) &&
           visit_text(v, "refused-why", status->refused_why ?: "", errp);
}

static bool visit_merge(Visitor *v, const struct ebb_merge_status *merge,
                        Error **errp)
{
    return visit_text(v, "merge", merge_names[merge->mode], errp) &&
           visit_flag(v, "merge-whole", merge->whole, errp) &&
           visit_flag(v, "merge-full", merge->full, errp) &&
           visit_flag(v, "merge-no-ksm", merge->no_ksm, errp) &&
           visit_flag(v, "merge-pending", merge->pending, errp) &&
           visit_u64(v, "merge-hinted-bytes", merge->hinted_bytes, errp) &&
           visit_u64(v, "merge-marked-bytes", merge->marked_bytes, errp) &&
           visit_u64(v, "merge-areas", merge->areas, errp) &&
           visit_u64(v, "merge-marks", merge->marks, errp) &&
           visit_u64(v, "merge-unmarks", merge->unmarks, errp) &&
           visit_u64(v, "merge-failures", merge->failures, errp) &&
           visit_u64(v, "merge-nsec", merge->nsec, errp) &&
           visit_u64(v, "merge-longest-nsec", merge->longest_nsec, errp);
}

static void get_stats(Object *obj, Visitor *v, const char *name, void *opaque,
                      Error **errp)
{
    EbbDevice *dev = EBB_DEVICE(obj);
    struct ebb_status status = {};
    bool ok;

    if (dev->executor) {
        ebb_executor_status(dev->executor, &status);
    }
    if (!visit_start_struct(v, name, NULL, 0, errp)) {
        return;
    }
    ok = visit_status(v, &status, errp) &&
         visit_u64(v, "reoffer-generation",
                   dev->executor ? ebb_device_generation(dev) : 0, errp) &&
         visit_counters(v, &status.counters, errp) &&
         visit_merge(v, &status.merge, errp) && visit_check_struct(v, errp);
    (void)ok; /* errp says it */
    visit_end_struct(v, NULL);
}

static void get_guest_stats(Object *obj, Visitor *v, const char *name,
                            void *opaque, Error **errp)
{
    EbbDevice *dev = EBB_DEVICE(obj);
    struct ebb_status status = {};
    bool ok;

    if (dev->executor) {
        ebb_executor_status(dev->executor, &status);
    }
    if (!visit_start_struct(v, name, NULL, 0, errp)) {
        return;
    }
    ok = visit_flag(v, "valid", status.guest_valid, errp);
    for (int i = VIRTIO_EBB_S_TOTAL; ok && i < VIRTIO_EBB_S_MAX; i++) {
        ok = !guest_names[i] ||
             visit_u64(v, guest_names[i], status.guest.value[i], errp);
    }
    if (ok) {
        visit_check_struct(v, errp);
    }
    visit_end_struct(v, NULL);
}

static char *get_regions(Object *obj, Error **errp)
{
    EbbDevice *dev = EBB_DEVICE(obj);

    return dev->executor ? ebb_ram_describe(&dev->ram) : g_strdup("");
}

static void set_release(Object *obj, Visitor *v, const char *name, void *opaque,
                        Error **errp)
{
    EbbDevice *dev = EBB_DEVICE(obj);
    uint32_t flags =
        strcmp(name, "release-anew") == 0 ? VIRTIO_EBB_RELEASE_F_ANEW : 0;
    uint64_t bytes;
    int ret;

    if (!visit_type_size(v, name, &bytes, errp)) {
        return;
    }
    if (!dev->executor) {
        error_setg(errp, "the device is not realized");
        return;
    }
    ret = ebb_executor_release(dev->executor, bytes, flags);
    switch (ret) {
    case 0:
        break;
    case -EBUSY:
        error_setg(errp, "a release is under way");
        break;
    case -ENODEV:
        error_setg(errp, "no driver that obeys runs in the guest");
        break;
    case -EPERM:
        error_setg(errp, "mode is 'off', so nothing would be given back");
        break;
    default:
        error_setg_errno(errp, -ret, "could not ask the guest");
        break;
    }
}

static void set_purge(Object *obj, Visitor *v, const char *name, void *opaque,
                      Error **errp)
{
    EbbDevice *dev = EBB_DEVICE(obj);
    uint64_t bytes;
    int ret;

    if (!visit_type_size(v, name, &bytes, errp)) {
        return;
    }
    if (!dev->executor) {
        error_setg(errp, "the device is not realized");
        return;
    }
    ret = ebb_executor_purge(dev->executor, bytes);
    if (ret == -EBUSY) {
        error_setg(errp, "a purge is under way");
    } else if (ret == -EPERM) {
        error_setg(errp, "mode is 'off', or the machine stands still or is "
                         "being copied");
    } else if (ret < 0) {
        error_setg_errno(errp, -ret, "could not purge");
    }
}

static void set_collect(Object *obj, bool value, Error **errp)
{
    EbbDevice *dev = EBB_DEVICE(obj);
    int ret;

    if (!value) {
        return;
    }
    if (!dev->executor) {
        error_setg(errp, "the device is not realized");
        return;
    }
    ret = ebb_executor_collect(dev->executor);
    switch (ret) {
    case 0:
        break;
    case -EBUSY:
        error_setg(errp, "a collection is under way");
        break;
    case -ENODEV:
        error_setg(errp, "no driver that obeys runs in the guest");
        break;
    case -ENOSYS:
        error_setg(errp, "this host's kernel cannot find or free empty page "
                         "tables");
        break;
    case -EAGAIN:
        error_setg(errp, "the host is short, and its kernel frees page tables "
                         "in a way that would stall the guest");
        break;
    case -EPERM:
        error_setg(errp, "mode or page-tables is 'off', so no table would "
                         "be freed");
        break;
    default:
        error_setg_errno(errp, -ret, "could not ask the guest");
        break;
    }
}

static const char *const own_properties[] = {
    "mode",         "ebb-stats", "guest-stats", "ebb-regions", "release",
    "release-anew", "purge",     "collect",     "page-tables", "merge",
};

void ebb_device_add_class_properties(ObjectClass *class)
{
    object_class_property_add_enum(class, "mode", "EbbMode", &mode_lookup,
                                   get_mode, set_mode);
    object_class_property_set_description(
        class, "mode",
        "how free memory is treated: lazy, eager, auto (default), off");
    object_class_property_add_enum(class, "merge", "EbbMerge", &merge_lookup,
                                   get_merge, set_merge);
    object_class_property_set_description(
        class, "merge",
        "what KSM may merge: off, hinted, all, keep (default: what the "
        "machine's options say)");
    object_class_property_add(class, "ebb-stats", "EbbStats", get_stats, NULL,
                              NULL, NULL);
    object_class_property_add(class, "guest-stats", "EbbGuestStats",
                              get_guest_stats, NULL, NULL, NULL);
    object_class_property_add_str(class, "ebb-regions", get_regions, NULL);
    object_class_property_add(class, "release", "size", NULL, set_release, NULL,
                              NULL);
    object_class_property_set_description(
        class, "release", "ask the guest for so many bytes of free memory now");
    object_class_property_add(class, "release-anew", "size", NULL, set_release,
                              NULL, NULL);
    object_class_property_set_description(
        class, "release-anew", "the same, with what was reported before");
    object_class_property_add(class, "purge", "size", NULL, set_purge, NULL,
                              NULL);
    object_class_property_set_description(
        class, "purge",
        "let the host take so many bytes of memory with content now");
    object_class_property_add_enum(class, "page-tables", "EbbTablesMode",
                                   &tables_lookup, get_tables_mode,
                                   set_tables_mode);
    object_class_property_set_description(
        class, "page-tables",
        "when empty page tables are collected: off, on-demand (default), "
        "background");
    object_class_property_add_bool(class, "collect", NULL, set_collect);
    object_class_property_set_description(
        class, "collect", "collect empty page tables of guest RAM now");
    object_class_property_set_description(
        class, "agent",
        "ebbd's socket (default /run/ebb/ebbd.sock; empty: none)");
    object_class_property_set_description(
        class, "label",
        "name of this guest for people (default: QEMU's -name)");
}

void ebb_device_alias_property(Object *proxy, Object *device, const char *name)
{
    /* Newer QEMUs alias properties of the class by themselves. */
    if (!object_property_find(proxy, name)) {
        object_property_add_alias(proxy, name, device, name);
    }
}

void ebb_device_alias_properties(Object *proxy, Object *device)
{
    for (size_t i = 0; i < ARRAY_SIZE(own_properties); i++) {
        ebb_device_alias_property(proxy, device, own_properties[i]);
    }
}
