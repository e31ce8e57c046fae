# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each rule broken once, and the tests that must notice it.

A mutant is (rule, name, changes, tests). A change is (file, old, new); old must be in the file
exactly once. A test is "vm PYTEST-ID", "agent PYTEST-ID", "unit NAME", "torture SEED" or "nested CASE";
every one of them must fail. An empty list of tests would be a mutant that nothing notices: there is none.
"""

from core_mutants import CORE, EXECUTOR, FLIGHTS
from nested_mutants import nested
from torture_mutants import TORTURE

MEMOPS = "vmm/core/memops.c"
DEVICE = "vmm/qemu/device.c"

LATE_CALL = """#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
struct late { void *at; uint64_t bytes; int advice; };
static void *late_thread(void *opaque)
{
	struct late *late = opaque;

	usleep(100000);
	madvise(late->at, late->bytes, late->advice);
	free(late);
	return NULL;
}
static int late_madvise(void *at, uint64_t bytes, int advice)
{
	struct late *late = malloc(sizeof(*late));
	pthread_t thread;

	*late = (struct late){ at, bytes, advice };
	pthread_create(&thread, NULL, late_thread, late);
	pthread_detach(thread);
	return 0;
}

static uint16_t advise(struct work *work,"""

MUTANTS = [
    ("1", "the answer does not wait for the system call", [
        (MEMOPS, "static uint16_t advise(struct work *work,", LATE_CALL),
        (MEMOPS, "if (madvise((void *)", "if (late_madvise((void *)")],
     ["vm test_device_rules.py::test_eager_discards_before_the_answer"]),
    # What makes content permanent, at a reset and at a stop, comes after what is in flight and waits.
    ("1", "nobody waits for what is in flight", [
        (EXECUTOR, "while (ebb_flights_busy(executor, 0, UINT64_MAX))", "while (executor->stop)"),
        (EXECUTOR, "while (content->harden_done < ticket)",
         "while (content->harden_done < ticket && executor->stop)")],
     ["vm test_in_flight.py::test_reset_waits", "vm test_in_flight.py::test_system_reset_waits",
      "vm test_in_flight.py::test_stop_waits", "unit executor"]),
    ("1", "a stop does not drain", [
        (EXECUTOR, "\texecutor->pause_depth++;\n\tdrain(executor);\n\tebb_unplugged",
         "\texecutor->pause_depth++;\n\tebb_unplugged")],
     ["unit executor"]),
    ("1", "a stop waits for nothing", [
        (EXECUTOR, "\texecutor->pause_depth++;\n\tdrain(executor);\n\tebb_unplugged",
         "\texecutor->pause_depth++;\n\tebb_unplugged"),
        (EXECUTOR, "while (content->harden_done < ticket)",
         "while (content->harden_done < ticket && executor->stop)")],
     ["vm test_in_flight.py::test_stop_waits"]),
    ("1, 4", "the driver does not wait for the answer", [
        ("guest-driver/report.c",
         "err = ebb_request_send(ebb, &ebb->offer, VIRTIO_EBB_REQ_FREE, count, command_id);",
         "err = 0; return 0;")],
     ["vm test_driver.py::test_an_offer_in_flight_is_isolated"]),
    ("2", "what KSM may hold is marked", [
        (MEMOPS, "\treturn region->mergeable || work->executor->ksm.doubt ||\n"
         "\t       (region->blocks[block] & EBB_BLOCK_KSM);", "\treturn false;")],
     ["vm test_device_rules.py::test_never_free_where_ksm_may_be",
      "vm test_backing.py::test_mergeable_dimm_beside_plain_ram", "unit memops"]),
    ("2", "what KSM may hold of hinted blocks is marked", [
        (MEMOPS, "\treturn region->mergeable || work->executor->ksm.doubt ||\n"
         "\t       (region->blocks[block] & EBB_BLOCK_KSM);",
         "\treturn region->mergeable || work->executor->ksm.doubt;")],
     ["vm test_merging_guests.py::test_a_page_that_only_one_guest_has_left", "unit merge"]),
    ("groups", "a group is merged while another still is", [
        ("host-agent/merge_group.c", "(members[i].told || !others)", "true")],
     ["unit agent-merge_group",
      "agent test_merge_group.py::test_each_guest_is_a_group_of_its_own"]),
    ("2", "an inherited PR_SET_MEMORY_MERGE is not seen", [
        ("vmm/core/ksm.c", "if (!word.areas && !inherited) {", "if (1) {")],
     ["vm test_device_rules.py::test_inherited_memory_merge_is_seen"]),
    ("3", "marks are not asked for anew after a migration", [
        (DEVICE, "dev->loaded_generation + 1 -", "dev->loaded_generation - 1 -")],
     ["vm test_migration.py::test_all_is_offered_anew"]),
    ("3", "content is discarded", [
        (MEMOPS, "\t\t\tapply(work, region, low, next - low, MADV_FREE);",
         "\t\t\tapply(work, region, low, next - low, MADV_DONTNEED);")],
     ["vm test_content.py::test_content_is_marked_and_never_discarded[eager]"]),
    ("3", "a stop hardens nothing", [
        (DEVICE, "        harden(dev, \"stopped\");\n", "")],
     ["vm test_content.py::test_stop_hardens", "vm test_content.py::test_dump_finds_it_whole"]),
    ("3", "a migration hardens nothing", [
        (DEVICE, "    ret = harden(dev, \"to be saved\");", "    ret = 0;")],
     ["vm test_content.py::test_a_migration_carries_what_was_whole",
      "vm test_content.py::test_what_is_copied_from_a_running_machine_is_hard[migration]"]),
    ("3", "a page that somebody holds is offered", [
        ("guest-driver/offer.c",
         "return !folio_mapped(folio) && folio_ref_count(folio) == folio_nr_pages(folio) + ours;",
         "return !folio_mapped(folio) && ours;")],
     ["vm test_volatile_io.py::test_direct_io_in_flight",
      "vm test_volatile.py::test_held_pages_are_left_out"]),
    ("3", "only the first opener who asks is told of a purge", [
        ("guest-driver/takeback.c", "if (other != opener && other->lost",
         "if (other == opener && other->lost")],
     ["vm test_volatile.py::test_semantics", "vm test_volatile_io.py::test_random_calls"]),
    ("5", "ranges are rounded outward", [
        (MEMOPS, "uintptr_t first = (host + unit_bytes - 1) & ~(unit_bytes - 1);",
         "uintptr_t first = host & ~(unit_bytes - 1);"),
        (MEMOPS, "if (first < host || end <= first)", "if (end <= first)")],
     ["vm test_device_rules.py::test_only_whole_blocks_are_marked"]),
    ("5", "fragments are marked", [
        (MEMOPS, "if (work->action == EBB_ACTION_LAZY && !helper)\n"
         "\t\tunit_bytes = EBB_BLOCK_BYTES;", "")],
     ["vm test_device_rules.py::test_only_whole_blocks_are_marked", "unit memops"]),
    ("6", "a private file mapping is discarded", [
        ("vmm/qemu/ram.c", "return fstat(fd, &st) != 0 || st.st_nlink > 0;",
         "return fstat(fd, &st) != 0;")],
     ["vm test_backing.py::test_private_file_is_refused_and_left_alone"]),
    ("6", "persistent memory is discarded", [
        ("vmm/qemu/ram.c", "if (kind == KIND_PMEM || section->nonvolatile || "
         "ramblock_is_pmem(block)) {", "if (ramblock_is_pmem(block)) {")],
     ["vm test_backing.py::test_nvdimm_is_refused"]),
    ("6", "a background snapshot forbids nothing", [
        ("vmm/qemu/compat.h", "|| migration_in_bg_snapshot();", ";")],
     ["vm test_backing.py::test_background_snapshot_inhibits"]),
    ("6", "free memory stays volatile in a background snapshot", [
        (DEVICE, "if (ret == 0 && migration_in_bg_snapshot()) {", "if (ret > 0) {")],
     ["vm test_background_snapshot.py::test_what_is_written_later_is_not_in_it[free]"]),
    ("6", "post-copy forbids nothing", [
        ("vmm/qemu/compat.h", "migration_in_incoming_postcopy() || ", "")],
     ["vm test_migration.py::test_post_copy_inhibits[virtio_ebb]"]),
    ("6", "a balloon behind an IOMMU is taken", [
        ("vmm/qemu/balloon.c", "virtio_clear_feature(&features, VIRTIO_F_IOMMU_PLATFORM);", "")],
     ["vm test_loader.py::test_balloon_behind_an_iommu_is_refused"]),
    ("11", "a region that is gone stays known", [
        ("vmm/qemu/ram.c", "ebb_executor_region_remove(ram->executor, start_gpa);", "")],
     ["vm test_memory_devices.py::test_dimm_plugged_and_unplugged_under_load[virtio_ebb]",
      "vm test_in_flight.py::test_removal_of_the_memory_waits"]),
    ("1", "QEMU does not wait for the executor at a stop", [
        (DEVICE, "ebb_executor_pause(dev->executor);\n        harden(dev, \"stopped\");", ""),
        (DEVICE, "ebb_executor_unharden(dev->executor);\n"
         "        ebb_executor_resume(dev->executor);", "")],
     ["vm test_in_flight.py::test_stop_waits"]),
    ("1", "QEMU does not wait for the executor at a reset", [
        (DEVICE, "    drain_dropping(dev);\n    ebb_executor_reset(dev->executor);", "")],
     ["vm test_in_flight.py::test_reset_waits"]),
    ("-", "the sizes of QEMU's types are not compared", [
        ("vmm/qemu/module.c", "if (!type_fits(&ebb_module.types[i])) {", "if (0) {")],
     ["vm test_loader.py::test_other_sizes[class-0-device]"]),
    ("7", "overlapping ranges are taken", [
        ("vmm/core/spans.c", "if (spans[i - 1].gpa + spans[i - 1].bytes > spans[i].gpa)",
         "if (0)")],
     ["vm test_hostile.py::test_bad_ranges[twice the same]", "unit spans"]),
    ("7", "an offer in flight is taken again", [
        (FLIGHTS, "\t\t    ebb_spans_overlap(flight->spans, flight->nr_spans, other->spans,\n"
         "\t\t\t\t      other->nr_spans))", "\t\t    !other->batch)")],
     ["vm test_in_flight.py::test_offer_in_flight_is_not_offered_again", "unit executor"]),
    ("7", "lengths are not checked", [
        ("proto/virtio_ebb_check.h",
         "if (readable_bytes != sizeof(*hdr) + (__u64)req->count * entry_bytes)", "if (0)")],
     ["vm test_hostile.py::test_bad_requests[entry cut]"]),
    ("7", "counts are not checked", [
        ("proto/virtio_ebb_check.h", "if (req->count == 0 || req->count > max_count)",
         "if (req->count == 0 || req->count / 4096 > max_count)")],
     ["vm test_hostile.py::test_bad_requests[count over the limit]"]),
    ("7", "what is not RAM is taken for nothing", [
        (FLIGHTS, "*fault = VIRTIO_EBB_FAULT_NOT_RAM;\n\t\t\treturn -EPROTO;",
         "*fault = VIRTIO_EBB_FAULT_NOT_RAM;\n\t\t\treturn -EBUSY;")],
     ["vm test_hostile.py::test_bad_ranges[beyond the end of RAM]"]),
    ("8", "ebbd does not take the peer's identity from the socket", [
        ("host-agent/peer.c", "peer->pid = cred.pid;", "peer->pid = getpid();")],
     ["agent test_wire.py::test_own_reading_of_proc"]),
    ("3", "content-free memory is mapped in huge pages, and touches are not seen", [
        ("guest-driver/fault.c", "kind == EBB_KIND_CONTENT_FREE || ebb_folio_is_special(",
         "kind > EBB_KIND_CONTENT_FREE || ebb_folio_is_special(")],
     ["vm test_libebb.py::test_library[device]"]),
    ("3", "pages of a content-free object that a program maps without a touch count as untouched", [
        ("guest-driver/compat.h", "return page_mapcount(page) > 0;", "return false;")],
     ["vm test_volatile.py::test_semantics[none]"]),
    ("5", "small volatile ranges are not packed into blocks", [
        ("guest-driver/offer.c", "if (*first != chunk_first || *last >= chunk_last ||",
         "if (*first >= chunk_first || *last >= chunk_last ||")],
     ["vm test_volatile.py::test_small_ranges_are_packed"]),
    ("5", "what a cache does not touch is not volatile", [
        ("guest-driver/users/store.c", "\t\tebb_volatile(memory, bytes);\n", "")],
     ["vm test_users.py::test_cache_in_whole_blocks"]),
    ("9", "a block waits for its youngest piece", [
        ("guest-driver/offer.c", " || ebb_time_left(all_epoch))", ")")],
     ["vm test_volatile.py::test_the_old_does_not_wait_for_the_young"]),
    ("9", "what is young is kept from a host that gets short", [
        ("guest-driver/offer.c", "if (epoch <= ebb_anew_epoch)", "if (false)")],
     ["vm test_volatile.py::test_all_is_offered_when_the_host_gets_short"]),
    ("9", "a host that gets shorter loses all marks for a while", [
        ("guest-driver/offer.c", "ebb_set_all_anew(false);", "ebb_set_all_anew(true);")],
     ["vm test_volatile_io.py::test_reoffer"]),
    ("9", "what is armed is not offered anew", [
        ("guest-driver/offer.c", "obj->send_again = !take_back;", "obj->send_again = false;")],
     ["vm test_volatile_io.py::test_reoffer"]),
    ("9", "what was used again counts as available", [
        ("host-agent/policy.c", "level.marked_bytes = min_u64(anon_bytes, lazyfree_bytes);",
         "level.marked_bytes = anon_bytes;")],
     ["vm test_agent.py::test_what_is_used_again_is_not_available", "unit agent-policy"]),
    ("9", "guests rest because of marks that go while they rest", [
        ("host-agent/policy.c", "\treturn level->available_bytes - min_u64(level->available_bytes, "
         "level->marked_bytes);", "\treturn level->available_bytes;")],
     ["unit agent-policy"]),
    ("9", "a purge tells the other processors of each page", [
        ("guest-driver/purge.c", "\tunmap_mapping_pages(ebb_mapping(run->obj), run->first, "
         "run->last - run->first + 1, false);\n", "")],
     ["vm test_volatile_io.py::test_whoever_touches[none]"]),
    ("9", "parts of huge pages are never purged under pressure", [
        ("guest-driver/purge.c", "#define PART_MIN_PAGES 32", "#define PART_MIN_PAGES 1024")],
     ["vm test_volatile.py::test_own_pressure_takes_parts_of_huge_pages"]),
    ("9", "a guest that is short is asked all the same", [
        ("guest-driver/report.c", "return may && !is_short;", "return may;")],
     ["vm test_driver.py::test_a_guest_that_is_short_is_left_alone"]),
    ("9", "the OOM killer does not wait for what is in flight", [
        ("guest-driver/report.c", "WRITE_ONCE(ebb->isolated_bytes, ebb_sum_bytes(sgl, nents));",
         "WRITE_ONCE(ebb->isolated_bytes, 0 * ebb_sum_bytes(sgl, nents));")],
     ["vm test_driver.py::test_the_oom_killer_waits_for_an_offer_in_flight[waits]"]),
    ("10", "a poisoned guest's memory is discarded", [
        ("vmm/core/policy.c", "if (policy->poison)", "if (0)")],
     ["vm test_device_rules.py::test_poisoned_memory_is_left_alone", "unit policy"]),
    ("11", "a region goes while its offers are in flight", [
        (EXECUTOR, "while (ebb_flights_busy(executor, start_gpa, bytes) || "
         "executor->scanning == region)",
         "while (executor->stop)")],
     ["vm test_in_flight.py::test_removal_of_the_memory_waits", "unit executor"]),
    ("12", "memory is allocated on the way of a batch", [
        (MEMOPS, "\twork.action = decision.action;",
         "\twork.action = decision.action;\n"
         "\tchar *volatile extra = __builtin_malloc(64);\n\t__builtin_free(extra);")],
     ["unit progress"]),
    ("13", "the driver touches what it offers", [
        ("guest-driver/report.c",
         "ebb_put_le64(&ranges[i].gpa, page_to_phys(sg_page(*sg)));",
         "ebb_put_le64(&ranges[i].gpa, page_to_phys(sg_page(*sg)));\n"
         "\t\tmemset(page_address(sg_page(*sg)), 0, (*sg)->length);")],
     ["vm test_driver.py::test_release_offers_all_that_is_free"]),
]

MUTANTS += CORE + TORTURE
MUTANTS += nested(MUTANTS)
