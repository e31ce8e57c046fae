// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_request - what ebbctl may ask, and what is refused
 *
 * Owns:    nothing.
 * Thread:  one.
 * Locks:   none.
 * Never:   opens anything.
 */
#include <errno.h>

#include "cm.h"
#include "request.h"

static char error[REQUEST_ERROR_BYTES];

static int parse(struct request *request, const char *text)
{
	strcpy(error, "nothing said");
	return request_parse(request, text, strlen(text), error);
}

static void test_good(void **state)
{
	struct request request;

	assert_int_equal(parse(&request, "{\"command\":\"status\"}"), 0);
	assert_int_equal(request.command, REQUEST_STATUS);
	assert_int_equal(parse(&request, "{\"command\":\"list\"}"), 0);
	assert_int_equal(request.command, REQUEST_LIST);
	assert_string_equal(request.after, "");
	assert_int_equal(parse(&request, "{\"after\":\"web\",\"command\":\"list\"}"), 0);
	assert_string_equal(request.after, "web");
	assert_int_equal(parse(&request, "{\"command\":\"show\",\"guest\":\"web1\"}"), 0);
	assert_string_equal(request.guest, "web1");
	assert_int_equal(parse(&request, "{\"command\":\"set\",\"guest\":\"web1\",\"key\":\"mode\","
					 "\"value\":\"lazy\"}"),
			 0);
	assert_string_equal(request.key, "mode");
	assert_string_equal(request.value, "lazy");
	assert_int_equal(parse(&request, "{\"command\":\"release\",\"guest\":\"a\"}"), 0);
	assert_int_equal(request.bytes, 0);
	assert_false(request.anew);
	assert_int_equal(parse(&request, "{\"command\":\"release\",\"guest\":\"a\",\"bytes\":4096,"
					 "\"anew\":true}"),
			 0);
	assert_int_equal(request.bytes, 4096);
	assert_true(request.anew);
	assert_int_equal(parse(&request, "{\"command\":\"release\",\"guest\":\"a\","
					 "\"bytes\":18446744073709551615}"),
			 0);
	assert_true(request.bytes == UINT64_MAX);
}

static void test_bad(void **state)
{
	static const struct {
		const char *text;
		const char *words;
	} cases[] = {
		{ "", "not JSON" },
		{ "{", "not JSON" },
		{ "{\"command\":\"list\"", "not JSON" },
		{ "{\"command\":\"list\"} x", "not JSON" },
		{ "{'command':'list'}", "not JSON" },
		{ "{\"command\":\"show\",\"guest\":\"\xff\"}", "not JSON" },
		{ "[[[[[[[[1]]]]]]]]", "not JSON" },
		{ "[]", "not a JSON object" },
		{ "7 ", "not a JSON object" },
		{ "\"list\"", "not a JSON object" },
		{ "{}", "no \"command\"" },
		{ "{\"command\":1}", "no \"command\"" },
		{ "{\"command\":\"\"}", "no \"command\"" },
		{ "{\"command\":\"stop\"}", "\"stop\" is not known" },
		{ "{\"command\":\"show\"}", "misses a key" },
		{ "{\"command\":\"set\",\"guest\":\"a\",\"key\":\"mode\"}", "misses a key" },
		{ "{\"command\":\"list\",\"guest\":\"a\"}", "knows no key \"guest\"" },
		{ "{\"command\":\"list\",\"colour\":\"red\"}", "knows no key \"colour\"" },
		{ "{\"command\":\"show\",\"guest\":7}", "value of \"guest\"" },
		{ "{\"command\":\"show\",\"guest\":null}", "value of \"guest\"" },
		{ "{\"command\":\"show\",\"guest\":\"\"}", "value of \"guest\"" },
		{ "{\"command\":\"show\",\"guest\":\"a\\u0000b\"}", "value of \"guest\"" },
		{ "{\"command\":\"release\",\"guest\":\"a\",\"bytes\":0}", "value of \"bytes\"" },
		{ "{\"command\":\"release\",\"guest\":\"a\",\"bytes\":-1}", "value of \"bytes\"" },
		{ "{\"command\":\"release\",\"guest\":\"a\",\"bytes\":1.5}", "value of \"bytes\"" },
		{ "{\"command\":\"release\",\"guest\":\"a\",\"bytes\":\"1G\"}",
		  "value of \"bytes\"" },
		{ "{\"command\":\"release\",\"guest\":\"a\",\"anew\":1}", "value of \"anew\"" },
	};
	struct request request;
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (parse(&request, cases[i].text) != -EINVAL || !strstr(error, cases[i].words))
			fail_msg("%s: expected \"%s\", said \"%s\"", cases[i].text, cases[i].words,
				 error);
	}
}

static void test_long(void **state)
{
	static char text[REQUEST_MAX_BYTES + 2];
	struct request request;
	int n;

	memset(text, ' ', sizeof(text));
	assert_int_equal(request_parse(&request, text, REQUEST_MAX_BYTES + 1, error), -EINVAL);
	assert_non_null(strstr(error, "longer than"));

	n = sprintf(text, "{\"command\":\"show\",\"guest\":\"");
	memset(text + n, 'x', REQUEST_NAME_BYTES);
	strcpy(text + n + REQUEST_NAME_BYTES, "\"}");
	assert_int_equal(parse(&request, text), -EINVAL);
	strcpy(text + n + REQUEST_NAME_BYTES - 1, "\"}");
	assert_int_equal(parse(&request, text), 0);
	assert_int_equal(strlen(request.guest), REQUEST_NAME_BYTES - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
