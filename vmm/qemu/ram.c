// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ram - follow the guest's RAM and say what may be done with each part
 *
 * Only memory that the guest's kernel manages is told to the executor: the
 * machine's own RAM and memory devices. Of these only what is this guest's
 * alone may be discarded (rule 6). Other RAM of QEMU (ROMs, PCI BARs, shared
 * windows) is not in the map, so an offer of it is a violation.
 *
 * Owns:    the list of regions; a reference to the memory of each (rule 11).
 * Thread:  the main thread, but ebb_ram_discard().
 * Locks:   the big lock is held; the executor never needs it.
 * Never:   looks at what the guest has offered.
 */
#include "compat.h"
#include "trace.h"
#include "ram.h"

struct EbbRamRegion {
    MemoryRegion *mr;
    RAMBlock *block;
    uint64_t block_offset; /* of start_gpa */
    struct ebb_region_desc desc;
    int error; /* of ebb_executor_region_add() */
    EbbRam *ram;
    RamDiscardManager *manager; /* of virtio-mem, else NULL */
    RamDiscardListener plug_listener;
    bool keeps_unplugged; /* it fills blocks before it tells that it plugs them
                           */
    QTAILQ_ENTRY(EbbRamRegion) next;
};

enum ram_kind {
    KIND_FOREIGN,
    KIND_MACHINE,
    KIND_DIMM,
    KIND_VIRTIO_MEM,
    KIND_PMEM
};

struct memory_device_search {
    MemoryRegion *mr;
    enum ram_kind kind;
};

/* Is this object the memory device that @search->mr belongs to? */
static int match_memory_device(Object *obj, void *opaque)
{
    struct memory_device_search *search = opaque;
    MemoryDeviceState *md =
        (MemoryDeviceState *)object_dynamic_cast(obj, TYPE_MEMORY_DEVICE);
    MemoryRegion *mr;

    if (!md) {
        return 0;
    }
    mr = MEMORY_DEVICE_GET_CLASS(md)->get_memory_region(md, NULL);
    while (mr && mr->alias) {
        mr = mr->alias;
    }
    if (mr != search->mr) {
        return 0;
    }
    if (object_dynamic_cast(obj, EBB_TYPE_VIRTIO_MEM_PCI)) {
        search->kind = KIND_VIRTIO_MEM;
    } else if (object_dynamic_cast(obj, TYPE_PC_DIMM) &&
               !object_dynamic_cast(obj, TYPE_NVDIMM)) {
        search->kind = KIND_DIMM;
    } else {
        search->kind = KIND_PMEM;
    }
    return 1;
}

static enum ram_kind classify(MemoryRegionSection *section)
{
    struct memory_device_search search = {
        .mr = section->mr,
        .kind = KIND_FOREIGN,
    };

    for (MemoryRegion *mr = section->mr; mr; mr = mr->container) {
        if (mr == current_machine->ram) {
            return KIND_MACHINE;
        }
    }
    object_child_foreach_recursive(object_get_root(), match_memory_device,
                                   &search);
    return search.kind;
}

/* May the file behind @fd be open somewhere else, by its name? */
static bool file_has_name(int fd)
{
    struct stat st;

    return fstat(fd, &st) != 0 || st.st_nlink > 0;
}

/* Why the page tables of a file, or of huge pages, are left alone. */
static uint32_t skipped(RAMBlock *block)
{
    if (qemu_ram_pagesize(block) != 4096) {
        return EBB_SKIPPED_HUGETLB;
    }
    return qemu_ram_is_shared(block) ? EBB_SKIPPED_SHARED : EBB_SKIPPED_FILE;
}

/*
 * Rule 6. Returns why nothing may be done, or NULL; sets the backing and, if
 * that is not private anonymous, why its page tables are left alone.
 */
static const char *judge(MemoryRegionSection *section, enum ram_kind kind,
                         RAMBlock *block, struct ebb_region_desc *desc)
{
    int fd = qemu_ram_get_fd(block);

    desc->backing = EBB_BACKING_REFUSED;
    desc->skipped = EBB_SKIPPED_OTHER;
    if (kind == KIND_PMEM || section->nonvolatile || ramblock_is_pmem(block)) {
        return "persistent memory, or a memory device of another kind";
    }
    if (section->readonly || memory_region_is_rom(section->mr)) {
        return "read-only memory";
    }
    if (current_machine->cgs || memory_region_is_protected(section->mr)) {
        return "the guest's memory is encrypted";
    }
    if (ebb_memory_is_locked()) {
        desc->skipped = EBB_SKIPPED_LOCKED;
        return "memory is locked (-overcommit mem-lock=on)";
    }
    if (fd >= 0 && file_has_name(fd)) {
        desc->skipped = skipped(block);
        return qemu_ram_is_shared(block)
                   ? "a named file, which others may have mapped"
                   : "a private mapping of a named file, which may be a "
                     "template of "
                     "other guests";
    }
    if (fd >= 0 || qemu_ram_is_shared(block) ||
        qemu_ram_pagesize(block) != 4096) {
        desc->backing = EBB_BACKING_HELPER;
        desc->skipped = skipped(block);
        return NULL;
    }
    desc->backing = EBB_BACKING_PRIVATE_ANON;
    return NULL;
}

static const char *backing_text(enum ebb_backing backing)
{
    switch (backing) {
    case EBB_BACKING_PRIVATE_ANON:
        return "private anonymous";
    case EBB_BACKING_HELPER:
        return "discarded by QEMU's helper, never marked";
    case EBB_BACKING_REFUSED:
        return "refused";
    }
    return "unknown";
}

static void commit(MemoryListener *listener)
{
    EbbRam *ram = container_of(listener, EbbRam, listener);
    uint64_t largest = 4096;
    EbbRamRegion *region;

    QTAILQ_FOREACH(region, &ram->regions, next)
    {
        if (region->desc.backing != EBB_BACKING_REFUSED) {
            largest = MAX(largest, region->desc.page_bytes);
        }
    }
    if (largest != ram->page_bytes) {
        ram->page_bytes = largest;
        ram->changed(ram);
    }
}

/* Where the guest has what a listener of @region is told of. */
static uint64_t section_gpa(EbbRamRegion *region, MemoryRegionSection *section)
{
    uint8_t *host = memory_region_get_ram_ptr(section->mr);

    host += section->offset_within_region;
    return region->desc.start_gpa + (host - (uint8_t *)region->desc.host);
}

/* virtio-mem is about to plug a block: what runs on it comes first. */
static int plug_begins(RamDiscardListener *listener,
                       MemoryRegionSection *section)
{
    EbbRamRegion *region = container_of(listener, EbbRamRegion, plug_listener);

    ebb_executor_quiesce(region->ram->executor, false);
    ebb_executor_plugged(region->ram->executor, section_gpa(region, section),
                         int128_get64(section->size));
    return 0;
}

static void unplug_done(RamDiscardListener *listener,
                        MemoryRegionSection *section)
{
    EbbRamRegion *region = container_of(listener, EbbRamRegion, plug_listener);

    /*
     * The guest has given the block up; nothing of it is in flight. What comes
     * while the machine stands still is the RAM of a snapshot or a migration,
     * which virtio-mem tells of only when its state comes.
     */
    if (!region->keeps_unplugged && runstate_is_running()) {
        ebb_executor_unplugged(region->ram->executor,
                               section_gpa(region, section),
                               int128_get64(section->size));
    }
}

static void watch_plugging(EbbRamRegion *region, MemoryRegionSection *section)
{
    if (!memory_region_has_ram_discard_manager(section->mr)) {
        return;
    }
    region->manager = memory_region_get_ram_discard_manager(section->mr);
    region->keeps_unplugged =
        object_property_get_bool(OBJECT(region->manager), "prealloc", NULL);
    ram_discard_listener_init(&region->plug_listener, plug_begins, unplug_done,
                              true);
    ram_discard_manager_register_listener(region->manager,
                                          &region->plug_listener, section);
}

/* QEMU's own: the machine's mem-merge, and a backend's merge at any time. */
static bool *merge_switch(MemoryRegion *mr)
{
    HostMemoryBackend *backend = (HostMemoryBackend *)object_dynamic_cast(
        memory_region_owner(mr), TYPE_MEMORY_BACKEND);

    return backend ? &backend->merge : NULL;
}

static void region_add(MemoryListener *listener, MemoryRegionSection *section)
{
    EbbRam *ram = container_of(listener, EbbRam, listener);
    uint64_t size_bytes = int128_get64(section->size);
    enum ram_kind kind;
    EbbRamRegion *region;
    ram_addr_t block_offset;
    RAMBlock *block;
    uint8_t *host;

    if (!memory_region_is_ram(section->mr) ||
        memory_region_is_ram_device(section->mr) ||
        !QEMU_IS_ALIGNED(section->offset_within_address_space | size_bytes |
                             section->offset_within_region,
                         4096)) {
        return;
    }
    kind = classify(section);
    if (kind == KIND_FOREIGN) {
        return;
    }
    host = memory_region_get_ram_ptr(section->mr);
    host += section->offset_within_region;
    block = qemu_ram_block_from_host(host, false, &block_offset);
    if (!block) {
        return;
    }

    region = g_new0(EbbRamRegion, 1);
    region->ram = ram;
    region->mr = section->mr;
    region->block = block;
    region->block_offset = block_offset;
    region->desc = (struct ebb_region_desc){
        .start_gpa = section->offset_within_address_space,
        .size_bytes = size_bytes,
        .host = host,
        .page_bytes = qemu_ram_pagesize(block),
        .opaque = region,
        .vmm_merges = merge_switch(section->mr),
    };
    region->desc.why = judge(section, kind, block, &region->desc);
    memory_region_ref(region->mr);
    region->error = ebb_executor_region_add(ram->executor, &region->desc);
    QTAILQ_INSERT_TAIL(&ram->regions, region, next);
    if (region->error == 0) {
        watch_plugging(region, section);
    } else {
        warn_report("ebb: RAM at 0x%" PRIx64 " (0x%" PRIx64 " bytes) is left "
                    "alone: %s",
                    region->desc.start_gpa, size_bytes,
                    strerror(-region->error));
    }
    ebb_trace(EBB_TRACE_REGION,
              "add gpa 0x%" PRIx64 " bytes 0x%" PRIx64 " page_bytes %" PRIu64
              " %s%s%s",
              region->desc.start_gpa, size_bytes, region->desc.page_bytes,
              backing_text(region->desc.backing), region->desc.why ? ": " : "",
              region->desc.why ?: "");
}

static void region_del(MemoryListener *listener, MemoryRegionSection *section)
{
    EbbRam *ram = container_of(listener, EbbRam, listener);
    uint64_t start_gpa = section->offset_within_address_space;
    EbbRamRegion *region;

    QTAILQ_FOREACH(region, &ram->regions, next)
    {
        if (region->desc.start_gpa == start_gpa && region->mr == section->mr) {
            break;
        }
    }
    if (!region) {
        return;
    }
    if (region->manager) {
        ram_discard_manager_unregister_listener(region->manager,
                                                &region->plug_listener);
    }
    if (region->error == 0) {
        /* Returns after the executor has done with it. */
        ebb_executor_region_remove(ram->executor, start_gpa);
    }
    QTAILQ_REMOVE(&ram->regions, region, next);
    ebb_trace(EBB_TRACE_REGION, "del gpa 0x%" PRIx64 " bytes 0x%" PRIx64,
              start_gpa, region->desc.size_bytes);
    memory_region_unref(region->mr);
    g_free(region);
}

int ebb_ram_discard(void *region_opaque, uint64_t offset_bytes, uint64_t bytes)
{
    EbbRamRegion *region = region_opaque;

    return ram_block_discard_range(region->block,
                                   region->block_offset + offset_bytes, bytes);
}

/* The region at @offset of @block, or the first one behind it, or NULL. */
static EbbRamRegion *region_from(EbbRam *ram, RAMBlock *block, uint64_t offset)
{
    EbbRamRegion *region, *found = NULL;

    QTAILQ_FOREACH(region, &ram->regions, next)
    {
        if (region->block == block &&
            region->desc.backing == EBB_BACKING_PRIVATE_ANON &&
            region->block_offset + region->desc.size_bytes > offset &&
            (!found || region->block_offset < found->block_offset)) {
            found = region;
        }
    }
    return found;
}

/*
 * What of @block is in no region of ours: of a PC's RAM the windows below the
 * first MiB, and all of a ROM.
 */
static int undo_merge_between(RAMBlock *block, void *opaque)
{
    EbbRam *ram = opaque;
    uint64_t size = qemu_ram_get_max_length(block), at = 0;
    uint8_t *host = qemu_ram_get_host_addr(block);

    while (host && at < size) {
        EbbRamRegion *region = region_from(ram, block, at);
        uint64_t end = region ? region->block_offset : size;
        bool *merges = region ? region->desc.vmm_merges : NULL;

        if (merges && qatomic_read(merges)) {
            break; /* it is not undone yet */
        }
        if (end > at) {
            qemu_madvise(host + at, end - at, QEMU_MADV_UNMERGEABLE);
        }
        at = region ? region->block_offset + region->desc.size_bytes : size;
    }
    return 0;
}

void ebb_ram_undo_merge(EbbRam *ram)
{
    qemu_ram_foreach_block(undo_merge_between, ram);
}

char *ebb_ram_describe(EbbRam *ram)
{
    GString *text = g_string_new(NULL);
    EbbRamRegion *region;

    QTAILQ_FOREACH(region, &ram->regions, next)
    {
        g_string_append_printf(
            text, "0x%" PRIx64 " +0x%" PRIx64 " page %" PRIu64 ": %s%s%s\n",
            region->desc.start_gpa, region->desc.size_bytes,
            region->desc.page_bytes, backing_text(region->desc.backing),
            region->desc.why ? ", " : "", region->desc.why ?: "");
    }
    return g_string_free(text, false);
}

void ebb_ram_init(EbbRam *ram, struct ebb_executor *executor,
                  void (*changed)(EbbRam *))
{
    ram->executor = executor;
    ram->changed = changed;
    ram->page_bytes = 4096;
    QTAILQ_INIT(&ram->regions);
    ram->listener = (MemoryListener){
        .name = "ebb",
        .region_add = region_add,
        .region_del = region_del,
        .commit = commit,
    };
    memory_listener_register(&ram->listener, &address_space_memory);
}

void ebb_ram_fini(EbbRam *ram)
{
    memory_listener_unregister(&ram->listener);
    assert(QTAILQ_EMPTY(&ram->regions));
}
