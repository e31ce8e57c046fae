// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_words - every number of the protocol has its word, and sizes are read as written
 *
 * Owns:    nothing.
 * Thread:  one.
 * Locks:   none.
 * Never:   opens anything.
 */
#include <errno.h>

#include "agent.h"
#include "cm.h"
#include "words.h"

static void test_modes(void **state)
{
	uint32_t i, mode;

	for (i = 0; i < EBB_MODE_MAX; i++) {
		assert_int_equal(mode_from_word(mode_word(i), &mode), 0);
		assert_int_equal(mode, i);
	}
	assert_null(mode_word(EBB_MODE_MAX));
	assert_null(mode_word(UINT32_MAX));
	assert_int_equal(mode_from_word("", &mode), -EINVAL);
	assert_int_equal(mode_from_word("Lazy", &mode), -EINVAL);
}

static void test_no_gaps(void **state)
{
	uint32_t i;

	for (i = 1; i < EBB_STAGE_MAX; i++)
		assert_non_null(stage_word(i));
	for (i = 0; i < VIRTIO_EBB_REASON_MAX; i++)
		assert_non_null(reason_word(i));
	for (i = 1; i < VIRTIO_EBB_S_FLAGS; i++)
		assert_non_null(stat_word(i));
	for (i = 0; i < VIRTIO_EBB_DONE_MAX; i++)
		assert_non_null(release_status_word(i));
	for (i = EBB_RELEASE_NO_DRIVER; i < EBB_RELEASE_MAX; i++) {
		assert_non_null(release_status_word(i));
		assert_non_null(release_status_text(i));
	}
	/* A status between the two ranges passes the wire's check, but nobody sends it. */
	assert_null(release_status_word(VIRTIO_EBB_DONE_MAX));
	assert_string_equal(front_word(EBB_FRONT_EBB), "ebb");
	assert_string_equal(front_word(EBB_FRONT_BALLOON), "balloon");
}

static void test_bytes(void **state)
{
	uint64_t bytes = 0;

	assert_int_equal(bytes_from_text("4096", &bytes), 0);
	assert_int_equal(bytes, 4096);
	assert_int_equal(bytes_from_text("512M", &bytes), 0);
	assert_int_equal(bytes, 512ull << 20);
	assert_int_equal(bytes_from_text("1g", &bytes), 0);
	assert_int_equal(bytes, 1ull << 30);
	assert_int_equal(bytes_from_text("16777215T", &bytes), 0);
	assert_int_equal(bytes_from_text("16777216T", &bytes), -ERANGE);
	assert_int_equal(bytes_from_text("18446744073709551616", &bytes), -ERANGE);
	assert_int_equal(bytes_from_text("", &bytes), -EINVAL);
	assert_int_equal(bytes_from_text("-1", &bytes), -EINVAL);
	assert_int_equal(bytes_from_text(" 1", &bytes), -EINVAL);
	assert_int_equal(bytes_from_text("1.5G", &bytes), -EINVAL);
	assert_int_equal(bytes_from_text("1MB", &bytes), -EINVAL);
	assert_int_equal(bytes_from_text("1X", &bytes), -EINVAL);
	assert_int_equal(bytes_from_text("all", &bytes), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_modes),
		cmocka_unit_test(test_no_gaps),
		cmocka_unit_test(test_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
