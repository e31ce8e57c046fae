// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * policy - the stage of a domain, and whom to ask for memory when it is short
 *
 * Up (plenty, nearing, short) goes at once, down goes slowly: a stage is left when more
 * than its mark plus the hysteresis has been available for calm_msec without a break.
 * NEARING also holds when the fall since the last sample, carried on for answer_msec,
 * would end under its mark.
 *
 * When SHORT, the guests with most to give are asked first, each for no more than what it
 * has free above the floor and holds resident beyond what it uses. Then figures are
 * stale until guests have answered and the host has been sampled anew: nobody is asked
 * for settle_msec. What free memory does not cover is purged from volatile content.
 *
 * Owns:    nothing.
 * Thread:  any.
 * Locks:   none.
 * Never:   reads a clock, does I/O, logs, allocates.
 */
#include "policy.h"

static uint64_t percent_of(uint64_t bytes, unsigned int percent)
{
	return bytes / 100 * percent;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* The most severe stage whose mark this level is under. */
static uint32_t stage_under(const struct policy_conf *conf, uint64_t total_bytes,
			    uint64_t available_bytes, uint64_t foreseen_bytes,
			    unsigned int raise_percent)
{
	if (available_bytes < percent_of(total_bytes, conf->short_percent + raise_percent))
		return EBB_STAGE_SHORT;
	if (min_u64(available_bytes, foreseen_bytes) <
	    percent_of(total_bytes, conf->nearing_percent + raise_percent))
		return EBB_STAGE_NEARING;
	return EBB_STAGE_PLENTY;
}

/* Available memory after answer_msec, if it goes on falling as since the last sample. */
static uint64_t foresee(const struct policy_conf *conf, const struct policy_gauge *gauge,
			const struct policy_level *level, uint64_t now_usec)
{
	uint64_t elapsed_usec = now_usec - gauge->seen_usec;
	double fall_bytes;

	if (gauge->stage == 0 || now_usec <= gauge->seen_usec ||
	    level->available_bytes >= gauge->seen_available_bytes)
		return level->available_bytes;
	fall_bytes = (double)(gauge->seen_available_bytes - level->available_bytes) *
		     ((double)conf->answer_msec * 1000.0 / (double)elapsed_usec);
	if (fall_bytes >= (double)level->available_bytes)
		return 0;
	return level->available_bytes - (uint64_t)fall_bytes;
}

struct policy_gauge policy_stage(const struct policy_conf *conf, const struct policy_gauge *gauge,
				 const struct policy_level *level, uint64_t now_usec)
{
	struct policy_gauge next = *gauge;
	uint64_t foreseen_bytes = foresee(conf, gauge, level, now_usec);
	uint32_t enter, stay;

	enter = stage_under(conf, level->total_bytes, level->available_bytes, foreseen_bytes, 0);
	stay = stage_under(conf, level->total_bytes, level->available_bytes, foreseen_bytes,
			   conf->hysteresis_percent);
	next.seen_available_bytes = level->available_bytes;
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
 * A guest that has given already is as free as before, but no longer resident: what is
 * resident beyond what it uses is what it can still give. The VMM's own memory makes this
 * too much rather than too little.
 */
static uint64_t can_give_bytes(const struct policy_conf *conf, const struct policy_guest *guest)
{
	uint64_t used_bytes;

	if (!guest->askable || guest->free_bytes <= conf->guest_floor_bytes ||
	    guest->free_bytes > guest->total_bytes)
		return 0;
	used_bytes = guest->total_bytes - guest->free_bytes;
	if (guest->resident_bytes <= used_bytes)
		return 0;
	return min_u64(guest->free_bytes - conf->guest_floor_bytes,
		       guest->resident_bytes - used_bytes);
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

/*
 * What releases do not cover of a deficit: fill purge_bytes of those that are not asked for
 * free memory, those with most volatile content first. Returns how many are to be purged.
 */
size_t policy_purge(uint64_t deficit_bytes, struct policy_guest *guests, size_t nr_guests)
{
	size_t i, best, purged = 0;

	for (i = 0; i < nr_guests; i++) {
		guests[i].purge_bytes = 0;
		deficit_bytes -= min_u64(deficit_bytes, guests[i].want_bytes);
	}
	while (deficit_bytes) {
		best = nr_guests;
		for (i = 0; i < nr_guests; i++)
			if (guests[i].purgeable && !guests[i].want_bytes &&
			    !guests[i].purge_bytes && guests[i].volatile_bytes &&
			    (best == nr_guests ||
			     guests[i].volatile_bytes > guests[best].volatile_bytes))
				best = i;
		if (best == nr_guests)
			break;
		guests[best].purge_bytes = min_u64(deficit_bytes, guests[best].volatile_bytes);
		deficit_bytes -= guests[best].purge_bytes;
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
