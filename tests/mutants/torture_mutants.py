# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules broken in a way that takes luck to see: tests/torture has to find it within its 60 s, with
each of three seeds. Form: see mutants.py; a test is "torture SEED"."""

FLIGHTS = "vmm/core/flights.c"
MEMOPS = "vmm/core/memops.c"

SEEDS = ["torture 11", "torture 12", "torture 13"]

# The calls of a batch are noted, and made when it has been answered.
PUT_OFF = """static struct put_off {
	void *at;
	size_t bytes;
	int advice;
} put_off[1024];
static unsigned int nr_put_off;

void ebb_do_put_off(void);
void ebb_do_put_off(void)
{
	for (unsigned int i = 0; i < nr_put_off; i++)
		madvise(put_off[i].at, put_off[i].bytes, put_off[i].advice);
	nr_put_off = 0;
}

static int put_off_madvise(void *at, size_t bytes, int advice)
{
	put_off[nr_put_off++] = (struct put_off){ at, bytes, advice };
	return 0;
}

static uint16_t advise(struct work *work,"""

TORTURE = [
    ("1", "torture: the system calls come after the answer", [
        (MEMOPS, "static uint16_t advise(struct work *work,", PUT_OFF),
        (MEMOPS, "if (madvise((void *)", "if (put_off_madvise((void *)"),
        (FLIGHTS, "\texecutor->ops->batch_done(executor->vmm, batch);\n\t/* The batch is",
         "\tvoid ebb_do_put_off(void);\n\n\texecutor->ops->batch_done(executor->vmm, batch);\n"
         "\tebb_do_put_off();\n\t/* The batch is")],
     SEEDS),
    ("2", "torture: what KSM may hold is marked", [
        (MEMOPS, "\treturn region->mergeable || work->executor->ksm.doubt ||\n"
         "\t       (region->blocks[block] & EBB_BLOCK_KSM);", "\treturn false;")],
     SEEDS),
]
