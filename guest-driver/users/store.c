// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * store - values by their keys
 *
 * A value lies in a block, a power of two of 256 bytes and more, of one large piece of volatile
 * memory. All of it that is not just being read or written is marked volatile. A page that was
 * purged takes all items along that lie in it; their blocks are free again at once. Where there
 * is no room for a new value those go that were not used for the longest time.
 *
 * Owns:    the index, the blocks, the values.
 * Thread:  one.
 * Locks:   none.
 * Never:   keeps anything but values in volatile memory; gives out a value that is not whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "libebb.h"
#include "store.h"

#define PAGE	    ((size_t)4096)
#define BLOCK	    ((size_t)256)
#define PAGE_BLOCKS (PAGE / BLOCK)
#define MAX_ORDER   12 /* STORE_MAX_VALUE */
#define NONE	    UINT32_MAX

struct store_figures store_figures;

static unsigned char *memory;
static bool is_volatile;
static uint32_t nr_blocks;

/* Of free blocks, by their first: the order + 1, and their list. Zero where nothing begins. */
static uint8_t *free_order;
static struct links {
	uint32_t next, previous;
} * free_links;
static uint32_t free_lists[MAX_ORDER + 1];

static struct item **buckets;
static size_t nr_buckets;
static uint64_t hash_seed, last_cas;
static struct item **page_items; /* by the page in which their block begins */
static struct item *newest, *oldest;

static void list_add(uint32_t block, unsigned int order)
{
	uint32_t head = free_lists[order];

	free_order[block] = (uint8_t)(order + 1);
	free_links[block] = (struct links){ .next = head, .previous = NONE };
	if (head != NONE)
		free_links[head].previous = block;
	free_lists[order] = block;
}

static void list_del(uint32_t block, unsigned int order)
{
	struct links links = free_links[block];

	if (links.previous != NONE)
		free_links[links.previous].next = links.next;
	else
		free_lists[order] = links.next;
	if (links.next != NONE)
		free_links[links.next].previous = links.previous;
	free_order[block] = 0;
}

static uint32_t block_alloc(unsigned int order)
{
	unsigned int from = order;
	uint32_t block;

	while (from <= MAX_ORDER && free_lists[from] == NONE)
		from++;
	if (from > MAX_ORDER)
		return NONE;
	block = free_lists[from];
	list_del(block, from);
	while (from-- > order)
		list_add(block + (1u << from), from);
	return block;
}

static void block_free(uint32_t block, unsigned int order)
{
	for (; order < MAX_ORDER; order++) {
		uint32_t buddy = block ^ 1u << order;

		if (free_order[buddy] != order + 1)
			break;
		list_del(buddy, order);
		block &= ~(1u << order);
	}
	list_add(block, order);
}

static unsigned int order_of(size_t bytes)
{
	unsigned int order = 0;

	while (BLOCK << order < bytes)
		order++;
	return order;
}

int store_init(size_t bytes, bool is_plain)
{
	size_t largest = BLOCK << MAX_ORDER;

	bytes = bytes / largest * largest;
	nr_blocks = (uint32_t)(bytes / BLOCK);
	nr_buckets = 1024;
	memory = is_plain ? mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
			  : ebb_alloc(bytes, &(struct ebb_options){ .kind = EBB_KIND_EXPLICIT });
	free_order = calloc(nr_blocks, sizeof(*free_order));
	free_links = calloc(nr_blocks, sizeof(*free_links));
	page_items = calloc(bytes / PAGE, sizeof(*page_items));
	buckets = calloc(nr_buckets, sizeof(*buckets));
	if (!memory || memory == MAP_FAILED || !free_order || !free_links || !page_items ||
	    !buckets || getrandom(&hash_seed, sizeof(hash_seed), 0) != sizeof(hash_seed))
		return -1;
	is_volatile = !is_plain && ebb_is_purgeable(memory) == 1;
	for (unsigned int order = 0; order <= MAX_ORDER; order++)
		free_lists[order] = NONE;
	for (uint32_t block = nr_blocks; block; block -= 1u << MAX_ORDER)
		list_add(block - (1u << MAX_ORDER), MAX_ORDER);
	if (is_volatile) {
		/* Also what no value will touch: a host with huge pages takes only whole blocks. */
		ebb_volatile(memory, bytes);
		fcntl(store_event_fd(), F_SETFL, O_RDWR | O_NONBLOCK);
	}
	return 0;
}

static struct item **bucket_of(const char *key, size_t key_bytes)
{
	uint64_t hash = hash_seed;

	for (size_t i = 0; i < key_bytes; i++)
		hash = (hash ^ (unsigned char)key[i]) * 0x100000001b3ull;
	hash = (hash ^ hash >> 32) * 0x9e3779b97f4a7c15ull;
	return &buckets[(hash ^ hash >> 29) & (nr_buckets - 1)];
}

/* Without memory for a larger table the chains grow longer. */
static void index_grow(void)
{
	size_t old_buckets = nr_buckets;
	struct item **old = buckets, **larger, *item, *next, **bucket;

	if (store_figures.items < nr_buckets)
		return;
	larger = calloc(nr_buckets * 2, sizeof(*larger));
	if (!larger)
		return;
	buckets = larger;
	nr_buckets *= 2;
	for (size_t i = 0; i < old_buckets; i++) {
		for (item = old[i]; item; item = next) {
			next = item->next_hash;
			bucket = bucket_of(item->key, item->key_bytes);
			item->next_hash = *bucket;
			*bucket = item;
		}
	}
	free(old);
}

static void use_add(struct item *item)
{
	item->newer = NULL;
	item->older = newest;
	if (newest)
		newest->newer = item;
	else
		oldest = item;
	newest = item;
}

static void use_del(struct item *item)
{
	if (item->newer)
		item->newer->older = item->older;
	else
		newest = item->older;
	if (item->older)
		item->older->newer = item->newer;
	else
		oldest = item->newer;
}

void store_delete(struct item *item)
{
	struct item **at = bucket_of(item->key, item->key_bytes);

	while (*at != item)
		at = &(*at)->next_hash;
	*at = item->next_hash;
	at = &page_items[item->block / PAGE_BLOCKS];
	while (*at != item)
		at = &(*at)->next_in_page;
	*at = item->next_in_page;
	use_del(item);
	block_free(item->block, item->order);
	store_figures.items--;
	store_figures.bytes -= item->bytes;
	free(item);
}

void store_flush(void)
{
	while (oldest)
		store_delete(oldest);
}

static void drop_purged(uint32_t block)
{
	struct item **items = &page_items[block / PAGE_BLOCKS];

	while (*items) {
		store_delete(*items);
		store_figures.purged++;
	}
}

enum taken { TAKEN_WHOLE, TAKEN_PURGED, TAKEN_NOT };

/* The memory is ours to touch unless it is TAKEN_NOT; what was purged has no items any more. */
static enum taken take(uint32_t block, size_t bytes)
{
	int result = is_volatile ? ebb_nonvolatile(memory + block * BLOCK, bytes) : 0;

	if (result < 0) {
		store_figures.failed++;
		return TAKEN_NOT;
	}
	if (!result)
		return TAKEN_WHOLE;
	drop_purged(block);
	return TAKEN_PURGED;
}

/* Without this it stays in memory, no more. */
static void give(uint32_t block, size_t bytes)
{
	size_t first = block * BLOCK / PAGE * PAGE;
	size_t end = (block * BLOCK + bytes + PAGE - 1) / PAGE * PAGE;

	if (is_volatile)
		ebb_volatile(memory + first, end - first);
}

struct item *store_find(const char *key, size_t key_bytes, int64_t now)
{
	struct item *item = *bucket_of(key, key_bytes);

	while (item && (item->key_bytes != key_bytes || memcmp(item->key, key, key_bytes)))
		item = item->next_hash;
	if (item && item->expires && item->expires <= now) {
		store_delete(item);
		return NULL;
	}
	return item;
}

bool store_read(struct item *item, void *out)
{
	uint32_t block = item->block, bytes = item->bytes;

	use_del(item);
	use_add(item);
	if (!bytes)
		return true;
	switch (take(block, bytes)) {
	case TAKEN_WHOLE:
		memcpy(out, memory + block * BLOCK, bytes);
		give(block, bytes);
		return true;
	case TAKEN_PURGED:
		give(block, bytes);
		return false;
	case TAKEN_NOT:
		return false;
	}
	return false;
}

struct item *store_set(const char *key, size_t key_bytes, uint32_t flags, int64_t expires,
		       const void *value, size_t bytes)
{
	struct item *item = store_find(key, key_bytes, 0), **bucket, **items;
	unsigned int order = order_of(bytes);
	uint32_t block;

	if (item)
		store_delete(item);
	if (order > MAX_ORDER || key_bytes > STORE_MAX_KEY)
		return NULL;
	while ((block = block_alloc(order)) == NONE && oldest) {
		store_delete(oldest);
		store_figures.evictions++;
	}
	item = malloc(sizeof(*item) + key_bytes);
	if (block == NONE || !item || (bytes && take(block, bytes) == TAKEN_NOT)) {
		if (block != NONE)
			block_free(block, order);
		free(item);
		return NULL;
	}
	memcpy(memory + block * BLOCK, value, bytes);
	if (bytes)
		give(block, bytes);
	*item = (struct item){ .cas = ++last_cas,
			       .expires = expires,
			       .flags = flags,
			       .bytes = (uint32_t)bytes,
			       .block = block,
			       .order = (uint8_t)order,
			       .key_bytes = (uint8_t)key_bytes };
	memcpy(item->key, key, key_bytes);
	index_grow();
	bucket = bucket_of(key, key_bytes);
	item->next_hash = *bucket;
	*bucket = item;
	items = &page_items[block / PAGE_BLOCKS];
	item->next_in_page = *items;
	*items = item;
	use_add(item);
	store_figures.items++;
	store_figures.total_items++;
	store_figures.bytes += bytes;
	return item;
}

int store_event_fd(void)
{
	return is_volatile ? ebb_fd(memory, NULL) : -1;
}

/* An event tells where something is gone, a query of what was in there what is. */
void store_hear_of_purges(void)
{
	struct ebb_event events[16];
	ssize_t got = read(store_event_fd(), events, sizeof(events));

	for (ssize_t i = 0; i < got / (ssize_t)sizeof(events[0]); i++) {
		/* A value may begin before the range that was purged. */
		uint64_t reach =
			events[i].offset < STORE_MAX_VALUE ? events[i].offset : STORE_MAX_VALUE;
		uint64_t end = (events[i].offset + events[i].bytes) / PAGE;

		for (uint64_t page = (events[i].offset - reach) / PAGE; page < end; page++) {
			struct item *item = page_items[page];
			struct ebb_query query = { .offset = page * PAGE };

			if (!item)
				continue;
			query.bytes = item->bytes < PAGE ? PAGE : item->bytes;
			if (!ioctl(store_event_fd(), EBB_IOC_QUERY, &query) && query.purged_pages)
				drop_purged(item->block);
		}
	}
}
