// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * policy - the stage of a domain, and whom to ask for memory when it is short
 *
 * Up (plenty, nearing, short) goes at once, down goes slowly: a stage is left when more
 * than its mark plus the hysteresis has been available for calm_msec without a break.
 * NEARING also holds when the fall since the last sample, carried on for answer_msec,
 * would end under its mark. For NEARING only that counts which is available without marks:
 * in PLENTY nothing is marked anew, and what is marked becomes less with each use.
 *
 * When SHORT, the guests with most to give are asked first, each for no more than what it
 * has free above the floor and holds resident beyond what it uses and what no release
 * brings. Then figures are stale until guests have answered and the host has been sampled
 * anew: nobody is asked for settle_msec. What free memory does not cover is purged from volatile
 * content: of each guest a part, by how much it has, for how long it was not used, and by weight.
 * Within a guest the executor takes what was marked longest ago.
 *
 * Owns:    nothing.
 * Thread:  any.
 * Locks:   none.
 * Never:   reads a clock, does I/O, logs, allocates.
 */
#include "policy.h"

/* The executor purges by blocks of so much. */
#define PURGE_MIN_BYTES (2ull << 20)

static uint64_t percent_of(uint64_t bytes, unsigned int percent)
{
	return bytes / 100 * percent;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* The most severe stage whose mark this level is under. */
static uint32_t stage_under(const struct policy_conf *conf, const struct policy_level *level,
			    uint64_t foreseen_bytes, unsigned int raise_percent)
{
	if (level->available_bytes <
	    percent_of(level->total_bytes, conf->short_percent + raise_percent))
		return EBB_STAGE_SHORT;
	if (foreseen_bytes < percent_of(level->total_bytes, conf->nearing_percent + raise_percent))
		return EBB_STAGE_NEARING;
	return EBB_STAGE_PLENTY;
}

static uint64_t unmarked(const struct policy_level *level)
{
	return level->available_bytes - min_u64(level->available_bytes, level->marked_bytes);
}

/* Available without marks after answer_msec, if it goes on falling as since the last sample. */
static uint64_t foresee(const struct policy_conf *conf, const struct policy_gauge *gauge,
			uint64_t unmarked_bytes, uint64_t now_usec)
{
	uint64_t elapsed_usec = now_usec - gauge->seen_usec;
	double fall_bytes;

	if (gauge->stage == 0 || now_usec <= gauge->seen_usec ||
	    unmarked_bytes >= gauge->seen_unmarked_bytes)
		return unmarked_bytes;
	fall_bytes = (double)(gauge->seen_unmarked_bytes - unmarked_bytes) *
		     ((double)conf->answer_msec * 1000.0 / (double)elapsed_usec);
	if (fall_bytes >= (double)unmarked_bytes)
		return 0;
	return unmarked_bytes - (uint64_t)fall_bytes;
}

struct policy_gauge policy_stage(const struct policy_conf *conf, const struct policy_gauge *gauge,
				 const struct policy_level *level, uint64_t now_usec)
{
	struct policy_gauge next = *gauge;
	uint64_t seen_bytes = unmarked(level);
	uint64_t foreseen_bytes = foresee(conf, gauge, seen_bytes, now_usec);
	uint32_t enter, stay;

	enter = stage_under(conf, level, foreseen_bytes, 0);
	stay = stage_under(conf, level, foreseen_bytes, conf->hysteresis_percent);
	next.seen_unmarked_bytes = seen_bytes;
	next.seen_usec = now_usec;

	if (enter >= gauge->stage) {
		next.stage = enter;
		next.calm_since_usec = 0;
	} else if (stay >= gauge->stage) {
		next.calm_since_usec = 0;
	} else if (gauge->calm_since_usec == 0) {
		next.calm_since_usec = now_usec;
	} else if (now_usec - gauge->calm_since_usec >= conf->calm_msec * 1000ull) {
		next.stage = stay;
		next.calm_since_usec = 0;
	}
	return next;
}

/*
 * What of a domain is available. listed_bytes of it stand on the kernel's lists of file pages.
 * Memory that is lazily freed stands there too, and stays there when it is used again, until
 * reclaim comes to it and finds it so (mm/vmscan.c, shrink_folio_list()). So of what is listed only
 * file cache and what smaps calls LazyFree of the guests' VMMs can be taken. That is too little
 * where another program frees lazily: nobody tells how much of its memory was used again.
 */
struct policy_level policy_level(uint64_t total_bytes, uint64_t available_bytes,
				 uint64_t listed_bytes, uint64_t cache_bytes,
				 uint64_t lazyfree_bytes)
{
	struct policy_level level = { .total_bytes = total_bytes };
	uint64_t anon_bytes = listed_bytes - min_u64(listed_bytes, cache_bytes), stale_bytes;

	level.marked_bytes = min_u64(anon_bytes, lazyfree_bytes);
	stale_bytes = anon_bytes - level.marked_bytes;
	level.available_bytes = available_bytes - min_u64(available_bytes, stale_bytes);
	return level;
}

/* Bytes to ask guests for now; 0: none. */
uint64_t policy_deficit(const struct policy_conf *conf, const struct policy_gauge *gauge,
			const struct policy_level *level, uint64_t now_usec)
{
	uint64_t goal_bytes;

	if (gauge->stage != EBB_STAGE_SHORT || now_usec < gauge->release_until_usec)
		return 0;
	goal_bytes = percent_of(level->total_bytes, conf->short_percent + conf->hysteresis_percent);
	return goal_bytes > level->available_bytes ? goal_bytes - level->available_bytes : 0;
}

/*
 * What is resident beyond what the guest uses: free memory that it has touched, and the VMM's own.
 * A guest that has given already is as free as before, but no longer resident.
 */
uint64_t policy_excess_bytes(const struct policy_guest *guest)
{
	uint64_t used_bytes;

	if (guest->free_bytes > guest->total_bytes)
		return 0;
	used_bytes = guest->total_bytes - guest->free_bytes;
	return guest->resident_bytes > used_bytes ? guest->resident_bytes - used_bytes : 0;
}

/*
 * After a release: how much of the excess is no free memory of the guest. Nobody sees that of a
 * page; but if hardly anything went with what was discarded, all that is left is not. 0: nothing
 * was learnt.
 */
uint64_t policy_kept_bytes(uint64_t before_bytes, uint64_t after_bytes, uint64_t discarded_bytes)
{
	uint64_t gone_bytes = before_bytes > after_bytes ? before_bytes - after_bytes : 0;

	return gone_bytes <= discarded_bytes / 4 ? after_bytes : 0;
}

static uint64_t can_give_bytes(const struct policy_conf *conf, const struct policy_guest *guest)
{
	uint64_t excess_bytes = policy_excess_bytes(guest);

	if (!guest->askable || guest->free_bytes <= conf->guest_floor_bytes ||
	    excess_bytes <= guest->kept_bytes)
		return 0;
	return min_u64(guest->free_bytes - conf->guest_floor_bytes,
		       excess_bytes - guest->kept_bytes);
}

/* Fill want_bytes, those who have most first. Returns how many are asked. */
size_t policy_release(const struct policy_conf *conf, uint64_t deficit_bytes,
		      struct policy_guest *guests, size_t nr_guests)
{
	uint64_t best_bytes, give_bytes;
	size_t i, best, asked = 0;

	for (i = 0; i < nr_guests; i++)
		guests[i].want_bytes = 0;
	while (deficit_bytes) {
		best = nr_guests;
		best_bytes = 0;
		for (i = 0; i < nr_guests; i++) {
			give_bytes = can_give_bytes(conf, &guests[i]);
			if (guests[i].want_bytes == 0 && give_bytes > best_bytes) {
				best = i;
				best_bytes = give_bytes;
			}
		}
		if (best == nr_guests)
			break;
		guests[best].want_bytes = min_u64(deficit_bytes, best_bytes);
		deficit_bytes -= guests[best].want_bytes;
		asked++;
	}
	return asked;
}

/* An hour and more is all the same. */
#define UNUSED_MAX_SEC 3600

/*
 * How much of what is purged falls to a guest: as much as it has, the more the longer it has made
 * no use of it, the less the greater its weight. 0: it has its part already, or none.
 */
static double purge_claim(const struct policy_guest *guest)
{
	uint64_t unused_sec = min_u64(guest->unused_usec / 1000000, UNUSED_MAX_SEC);

	if (!guest->purgeable || guest->want_bytes || guest->purge_bytes || !guest->weight)
		return 0;
	return (double)guest->volatile_bytes * (double)(1 + unused_sec) / guest->weight;
}

static bool purge_is_split(const struct policy_guest *guest, uint64_t deficit_bytes, double claims)
{
	return (double)deficit_bytes * purge_claim(guest) / claims < (double)guest->volatile_bytes;
}

/*
 * What releases do not cover of a deficit: fill purge_bytes of those that are not asked for free
 * memory. Whoever's part is more than it has gives all, and the others share what is left of the
 * need. Nobody is asked for less than a block, if he has one. Returns how many are to be purged.
 */
size_t policy_purge(uint64_t deficit_bytes, struct policy_guest *guests, size_t nr_guests)
{
	size_t i, purged = 0;
	double claims = 0;
	bool changed;

	for (i = 0; i < nr_guests; i++) {
		guests[i].purge_bytes = 0;
		deficit_bytes -= min_u64(deficit_bytes, guests[i].want_bytes);
	}
	do {
		changed = false;
		for (claims = 0, i = 0; i < nr_guests; i++)
			claims += purge_claim(&guests[i]);
		for (i = 0; deficit_bytes && !changed && i < nr_guests; i++) {
			if (purge_claim(&guests[i]) <= 0 ||
			    purge_is_split(&guests[i], deficit_bytes, claims))
				continue;
			guests[i].purge_bytes = min_u64(deficit_bytes, guests[i].volatile_bytes);
			deficit_bytes -= guests[i].purge_bytes;
			purged++;
			changed = true;
		}
	} while (changed);

	for (i = 0; deficit_bytes && i < nr_guests; i++) {
		double claim = purge_claim(&guests[i]);
		uint64_t part_bytes;

		if (claim <= 0)
			continue;
		part_bytes = (uint64_t)((double)deficit_bytes * claim / claims + 0.5);
		part_bytes = part_bytes < PURGE_MIN_BYTES ? PURGE_MIN_BYTES : part_bytes;
		guests[i].purge_bytes = min_u64(part_bytes, guests[i].volatile_bytes);
		purged++;
	}
	return purged;
}

/* Guests were asked at now_usec. */
struct policy_gauge policy_released(const struct policy_conf *conf,
				    const struct policy_gauge *gauge, uint64_t now_usec)
{
	struct policy_gauge next = *gauge;

	next.release_until_usec = now_usec + conf->settle_msec * 1000ull;
	return next;
}
