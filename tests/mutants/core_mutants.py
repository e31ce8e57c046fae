# SPDX-License-Identifier: LGPL-2.1-or-later
"""The executor's rules broken one by one; its unit tests must notice. Form: see mutants.py."""

COLLECT = "vmm/core/collect.c"
CONTENT = "vmm/core/content.c"
EXECUTOR = "vmm/core/executor.c"
FLIGHTS = "vmm/core/flights.c"
HINTS = "vmm/core/hints.c"
KSM = "vmm/core/ksm.c"
LINK = "vmm/core/link.c"
MERGE = "vmm/core/merge.c"
MEMOPS = "vmm/core/memops.c"
RAM_MAP = "vmm/core/ram_map.c"
SPANS = "vmm/core/spans.c"
TABLES = "vmm/core/tables.c"
UNPLUGGED = "vmm/core/unplugged.c"
TABLES_MOVE = "vmm/core/tables_move.c"

CALL = "\tif (madvise((void *)(region->host + offset_bytes), bytes, advice) < 0)\n"

CORE = [
    ("1", "a collection discards what it has not asked for", [
        (MEMOPS, "(region->blocks[next] & EBB_BLOCK_ASKED))", "1)")],
     ["unit collect"]),
    ("1", "a collection discards what is in use again", [
        (MEMOPS, "if (states[i] != EBB_TABLE_EMPTY) {", "if (0) {")],
     ["unit collect"]),
    ("1", "any offer counts as the answer to a collection", [
        (MEMOPS, "\t       executor->collect.id == batch->command_id;", "\t       1;")],
     ["unit collect"]),
    ("1", "what was asked for once is asked for for ever", [
        (COLLECT, "region->blocks[block] &= (uint8_t)~EBB_BLOCK_ASKED;", "(void)last;")],
     ["unit collect"]),
    ("1", "a table is moved beside those that were discarded", [
        (TABLES, "ret = ebb_tables_move_out(host, n * EBB_BLOCK_BYTES);",
         "ret = ebb_tables_move_out(host, (n + 1) * EBB_BLOCK_BYTES);")],
     ["unit collect"]),
    ("1", "a plug does not wait for what is being collected", [
        (UNPLUGGED, "while (is_emptying(executor, region, block, end))", "while (0)")],
     ["unit unplugged"]),
    ("1", "what was unplugged once counts as unplugged after a plug", [
        (UNPLUGGED, "\t\tset_pending(region, block, end, false);\n\t\twhile", "\t\twhile")],
     ["unit unplugged"]),
    ("1", "what was unplugged before a stop counts as unplugged after it", [
        (EXECUTOR, "\tebb_unplugged_forget(executor);\n", "")],
     ["unit unplugged"]),
    ("6", "a new mapping in place of a move", [
        (TABLES_MOVE,
         "syscall(SYS_mremap, host, bytes, bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, to);",
         "(long)to;\n\tif (mmap((void *)host, bytes, PROT_READ | PROT_WRITE,\n"
         "\t\t MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)\n\t\tat = -1;")],
     ["unit move"]),
    ("6", "what could not be discarded is moved", [
        (MEMOPS, "\tif (work->discarded_bytes == before_bytes)\n\t\treturn;\n", "\t(void)before_bytes;\n")],
     ["unit move"]),
    ("12", "tables are moved while the host is short", [
        (MEMOPS, "executor->tables.way == EBB_TABLES_MOVE && !work->is_short)",
         "executor->tables.way == EBB_TABLES_MOVE)")],
     ["unit move"]),
    ("5", "a table counts as empty of which a part is", [
        (TABLES, "whole && !(run->categories & SCAN_ENTRY) ?",
         "!(run->categories & SCAN_ENTRY) ?")],
     ["unit collect"]),
    ("11", "a collection outlives a reset", [
        (EXECUTOR, "\tebb_collect_answer(executor, VIRTIO_EBB_DONE_CANCELLED);\n", "")],
     ["unit collect"]),
    ("12", "tables that cannot be there are asked for", [
        (COLLECT, "is_worth_it = most_gain(executor) >=",
         "is_worth_it = most_gain(executor) + UINT32_MAX >=")],
     ["unit collect"]),
    ("12", "a pass in the background begins while the host is short", [
        ("vmm/core/policy.c", "policy->stage != EBB_STAGE_SHORT &&", "")],
     ["unit collect"]),
    ("1", "the answer comes before the system calls", [
        (FLIGHTS, "\t\t\tmarked = ebb_memops_run(executor, flight);\n\t\tanswer(",
         "\t\t\texecutor->ops->batch_done(executor->vmm, flight->batch),\n"
         "\t\t\t\tmarked = ebb_memops_run(executor, flight);\n\t\tif (cancelled)\n\t\tanswer(")],
     ["unit memops", "unit races"]),
    ("1", "quiesce and pause do not wait", [
        (EXECUTOR, "while (ebb_flights_busy(executor, 0, UINT64_MAX))", "while (executor->stop)")],
     ["unit executor"]),
    ("1", "a reset does not wait", [
        (EXECUTOR, "\tebb_flights_cancel(executor, 0, UINT64_MAX);\n\tdrain(executor);\n\twhile",
         "\tebb_flights_cancel(executor, 0, UINT64_MAX);\n\twhile")],
     ["unit executor"]),
    ("1", "nobody waits for an answer that is under way", [
        (FLIGHTS, "\t\tif (flight->state != EBB_FLIGHT_FREE &&\n\t\t    ebb_spans_touch",
         "\t\tif (flight->state != EBB_FLIGHT_FREE &&\n"
         "\t\t    flight->state != EBB_FLIGHT_ANSWERING &&\n\t\t    ebb_spans_touch")],
     ["unit executor"]),
    ("1", "what was cancelled is done all the same", [
        (FLIGHTS, "\t\tif (cancelled)\n", "\t\tif (0)\n")],
     ["unit executor"]),
    ("1", "neighbours are joined over a gap", [
        (MEMOPS, "gpa != run.gpa + run.bytes) {", "gpa < run.gpa + run.bytes) {")],
     ["unit memops", "unit races"]),
    ("2", "what KSM may hold is marked", [
        (MEMOPS, "return region->mergeable || work->executor->ksm.doubt ||\n"
         "\t       (region->blocks[block] & EBB_BLOCK_KSM);", "return false;")],
     ["unit memops", "unit ksm"]),
    ("2", "nobody looks before a mark", [
        (MEMOPS, "\tif (work.action == EBB_ACTION_LAZY)\n\t\tebb_ksm_before_free(executor);\n", "")],
     ["unit ksm"]),
    ("2", "nobody looks after a mark", [
        (KSM, "if (!executor->merge.ever && !ksm->pages && ebb_ksm_ask(ksm).pages)", "if (0)")],
     ["unit ksm"]),
    ("2", "what the kernel does not tell is taken for no", [
        (KSM, "ret || region->found_bytes < region->desc.size_bytes ||", "")],
     ["unit ksm"]),
    ("2", "mergeable areas are not seen in smaps", [
        (KSM, "area->mergeable |= strncmp(flag, \"mg\", 2) == 0;", "")],
     ["unit ksm"]),
    ("2", "a look that is too old is good enough", [
        (KSM, "\telse\n\t\tksm->doubt = true;\n}", "}")],
     ["unit ksm"]),
    ("2", "a discard cleans a block that is still mergeable", [
        (MEMOPS, "!(*state & EBB_BLOCK_MERGE) && !region->mergeable &&\n"
         "\t\t    !work->executor->ksm.doubt) {", "!(*state & EBB_BLOCK_MERGE)) {")],
     ["unit memops"]),
    ("2", "a discard cleans a block that we have marked mergeable", [
        (MEMOPS, "if ((*state & EBB_BLOCK_KSM) && !(*state & EBB_BLOCK_MERGE) && !region",
         "if ((*state & EBB_BLOCK_KSM) && !region")],
     ["unit merge"]),
    ("2", "what we mark mergeable does not count as KSM's", [
        (MERGE, "\tset_ksm(pass->executor, region, first, end, true);\n", "")],
     ["unit merge"]),
    ("2", "what was not taken back counts as taken back", [
        (MERGE, "\t\tsay_failed(pass, \"madvise(MADV_UNMERGEABLE)\", -ret);\n\t\treturn;\n\t}\n"
         "\tset_mark", "\t\tsay_failed(pass, \"madvise(MADV_UNMERGEABLE)\", -ret);\n\t}\n\tset_mark")],
     ["unit merge"]),
    ("2", "the VMM's own switch is not seen", [
        (KSM, "if (!ebb_ksm_vmm_merges(region) || region->look_pending ||", "if (1 ||")],
     ["unit merge"]),
    ("2, 3", "volatile content is made mergeable", [
        (MERGE, "if (region->blocks[block] & EBB_BLOCK_CONTENT)", "if (0)")],
     ["unit merge"]),
    ("7", "hints outside of RAM are taken", [
        (HINTS, "if (ebb_ram_map_covers(&executor->map, hints[i].gpa, hints[i].bytes) == -ENOENT)",
         "if (0)")],
     ["unit merge"]),
    ("11", "a region that goes leaves its marks", [
        (EXECUTOR, "\tebb_merge_drop_region(region);\n", "")],
     ["unit merge",
      "vm test_merging_guests.py::test_a_device_that_goes_takes_its_marks_along"]),
    ("12", "marks change while the host is short", [
        (MERGE, "\tif (stage == EBB_STAGE_SHORT)\n", "\tif (0)\n")],
     ["unit merge"]),
    ("2, 11", "a new region is taken for clean", [
        (RAM_MAP, "\t\tregion->look_pending = true;\n\t\tregion->mergeable = true;\n"
         "\t\tebb_region_set_ksm(region, true);\n", "")],
     ["unit ram_map", "unit memops"]),
    ("3", "content is discarded", [
        (MEMOPS, "\t\t\tapply(work, region, low, next - low, MADV_FREE);",
         "\t\t\tapply(work, region, low, next - low, MADV_DONTNEED);")],
     ["unit content"]),
    ("3", "nothing is hardened", [
        (CONTENT, "\t\twanted[i] = words_of(region, block)[i] & (pages.present[i] | "
         "pages.swapped[i]);", "\t\twanted[i] = 0;")],
     ["unit content"]),
    ("3", "content is marked while it is hard", [
        (MEMOPS, "\tif (executor->content.harden_depth) {", "\tif (0) {")],
     ["unit content"]),
    ("3", "a reset hardens nothing", [
        (EXECUTOR, "\tharden(executor);\n\texecutor->content.notices.nr = 0;",
         "\texecutor->content.notices.nr = 0;")],
     ["unit content"]),
    ("3", "what is gone is mapped again", [
        (CONTENT, "words_of(region, block)[i] & (pages.present[i] | pages.swapped[i]);",
         "~0ull;")],
     ["unit content"]),
    ("3", "a mark that failed in part is denied", [
        (MEMOPS, "reason ? OUTCOME_DOUBT : OUTCOME_MARKED", "reason ? OUTCOME_LEFT : OUTCOME_MARKED")],
     ["unit content"]),
    ("3", "losses are not told", [
        (CONTENT, "\texecutor->content.notices_new = true;\n", "")],
     ["unit content"]),
    ("5", "parts of huge pages are marked with content", [
        (MEMOPS, "\t\t   (!pages.huge || may_split)) {", "\t\t   true) {")],
     ["unit content"]),
    ("5", "a huge page is never split for content", [
        (MEMOPS, "\t\t   (!pages.huge || may_split)) {", "\t\t   !pages.huge) {")],
     ["unit content"]),
    ("5", "ranges are rounded outward at the start", [
        (MEMOPS, "uintptr_t first = (host + unit_bytes - 1) & ~(unit_bytes - 1);",
         "uintptr_t first = host & ~(unit_bytes - 1);"),
        (MEMOPS, "if (first < host || end <= first)", "if (end <= first)")],
     ["unit memops"]),
    ("5", "ranges are rounded outward at the end", [
        (MEMOPS, "uintptr_t end = (host + run->bytes) & ~(unit_bytes - 1);",
         "uintptr_t end = (host + run->bytes + unit_bytes - 1) & ~(unit_bytes - 1);")],
     ["unit memops"]),
    ("5", "parts of huge pages are marked", [
        (MEMOPS, "if (work->action == EBB_ACTION_LAZY && !helper)\n\t\tunit_bytes = EBB_BLOCK_BYTES;",
         "")],
     ["unit memops"]),
    ("5", "parts of the backing's pages are discarded", [
        (MEMOPS, "uint64_t unit_bytes = region->desc.page_bytes, low, high;",
         "uint64_t unit_bytes = 4096, low, high;")],
     ["unit memops", "unit fuzz_core"]),
    ("6", "refused memory is discarded", [
        (MEMOPS, "region->desc.backing == EBB_BACKING_REFUSED || region->locked", "region->locked")],
     ["unit memops"]),
    ("6", "locked memory is tried again and again", [
        (MEMOPS, "\tregion->locked = true;\n", "")],
     ["unit memops"]),
    ("6", "what needs the VMM's helper is advised", [
        (MEMOPS, "\t\telse if (helper)\n", "\t\telse if (0)\n")],
     ["unit memops"]),
    ("6", "the VMM's word that forbids discards is not heard", [
        (MEMOPS, "\tif (!ebb_memops_begin(executor)) {\n\t\tebb_memops_refuse",
         "\tif (!ebb_memops_begin(executor) && 0) {\n\t\tebb_memops_refuse")],
     ["unit memops"]),
    ("7", "overlapping ranges are taken", [
        (SPANS, "if (spans[i - 1].gpa + spans[i - 1].bytes > spans[i].gpa)", "if (0)")],
     ["unit spans", "unit executor", "unit fuzz_core"]),
    ("7", "an offer in flight is taken again", [
        (FLIGHTS, "\t\t    ebb_spans_overlap(flight->spans, flight->nr_spans, other->spans,\n"
         "\t\t\t\t      other->nr_spans))", "\t\t    !other->batch)")],
     ["unit executor"]),
    ("7", "an answered offer counts as in flight", [
        (FLIGHTS, "if ((other->state == EBB_FLIGHT_QUEUED || other->state == EBB_FLIGHT_RUNNING) &&\n"
         "\t\t    ebb_spans_overlap", "if (other->state != EBB_FLIGHT_FREE &&\n"
         "\t\t    ebb_spans_overlap")],
     ["unit executor"]),
    ("7", "what is not RAM is taken", [
        (RAM_MAP, "\t\tif (!ebb_region_contains(region, gpa))\n\t\t\treturn -ENOENT;\n", "")],
     ["unit ram_map"]),
    ("7", "the queue has no bound", [
        (FLIGHTS, "return nr < EBB_MAX_BATCHES ? found : NULL;", "return found;")],
     ["unit executor"]),
    ("7", "a violation does not break the device", [
        (FLIGHTS, "\t\texecutor->status.broken = true;\n", "")],
     ["unit executor"]),
    ("8", "ebbd's packets are not checked", [
        (LINK, "\tif (fault) {\n", "\tif (0) {\n")],
     ["unit link"]),
    ("8", "packets out of turn are obeyed", [
        (LINK, "\tif ((type == EBB_MSG_WELCOME) == up)\n\t\treturn -EPROTO;\n", "")],
     ["unit link"]),
    ("8", "an ebbd that does not read is kept", [
        (LINK, "\t\tlink->done_lost = true;\n", "")],
     ["unit link"]),
    ("8", "the last policy goes with ebbd", [
        (LINK, "\t\texecutor->release.agent_id = 0;\n",
         "\t\texecutor->release.agent_id = 0;\n"
         "\t\texecutor->policy.agent_mode = EBB_MODE_KEEP;\n"
         "\t\tebb_executor_policy_changed(executor, NULL);\n")],
     ["unit link"]),
    ("-", "an answer to ebbd does not wake the thread", [
        (EXECUTOR, "!executor->link.done_new &&", "")],
     ["unit link"]),
    ("-", "a change of the guidance does not wake the thread", [
        (EXECUTOR, "!executor->guide_pending &&", "")],
     ["unit executor"]),
    ("10", "a pattern in free memory is overwritten", [
        ("vmm/core/policy.c", "if (policy->poison)", "if (0)")],
     ["unit policy", "unit memops"]),
    ("11", "a region goes while it is worked on", [
        (EXECUTOR, "while (ebb_flights_busy(executor, start_gpa, bytes) || "
         "executor->scanning == region)", "while (executor->stop)")],
     ["unit executor"]),
    ("11", "removal cancels nothing", [
        (EXECUTOR, "\tebb_flights_cancel(executor, start_gpa, bytes);\n", "")],
     ["unit executor"]),
    ("11", "offers of a region that goes are taken", [
        (RAM_MAP, "return removing ? -EBUSY : 0;", "return 0;")],
     ["unit ram_map"]),
    ("12", "memory is allocated on the way of a batch", [
        (MEMOPS, "\twork.action = decision.action;",
         "\twork.action = decision.action;\n"
         "\tchar *volatile extra = __builtin_malloc(64);\n\t__builtin_free(extra);")],
     ["unit progress"]),
    ("12", "the lock is held across the system call", [
        (MEMOPS, CALL, "\tpthread_mutex_lock(&work->executor->lock);\n" + CALL),
        (MEMOPS, "\twork->nsec += ebb_now_nsec() - start_nsec;\n\twork->calls++;\n\tif (error)",
         "\tpthread_mutex_unlock(&work->executor->lock);\n"
         "\twork->nsec += ebb_now_nsec() - start_nsec;\n\twork->calls++;\n\tif (error)")],
     ["unit progress"]),
]
