/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ebb_le.h - little-endian fields, read and written byte by byte
 *
 * Works on any host byte order and any alignment; compilers make one load or store
 * of it. Needs nothing but <linux/types.h>, so kernel, VMM and agent share it.
 */
#ifndef EBB_LE_H
#define EBB_LE_H

#include <linux/types.h>

static inline __u16 ebb_get_le16(const __le16 *field)
{
	const __u8 *b = (const __u8 *)field;

	return (__u16)(b[0] | b[1] << 8);
}

static inline __u32 ebb_get_le32(const __le32 *field)
{
	const __u8 *b = (const __u8 *)field;

	return (__u32)b[0] | (__u32)b[1] << 8 | (__u32)b[2] << 16 | (__u32)b[3] << 24;
}

static inline __u64 ebb_get_le64(const __le64 *field)
{
	const __u8 *b = (const __u8 *)field;
	__u64 value = 0;
	int i;

	for (i = 7; i >= 0; i--)
		value = value << 8 | b[i];
	return value;
}

static inline void ebb_put_le16(__le16 *field, __u16 value)
{
	__u8 *b = (__u8 *)field;

	b[0] = (__u8)value;
	b[1] = (__u8)(value >> 8);
}

static inline void ebb_put_le32(__le32 *field, __u32 value)
{
	__u8 *b = (__u8 *)field;
	int i;

	for (i = 0; i < 4; i++)
		b[i] = (__u8)(value >> (8 * i));
}

static inline void ebb_put_le64(__le64 *field, __u64 value)
{
	__u8 *b = (__u8 *)field;
	int i;

	for (i = 0; i < 8; i++)
		b[i] = (__u8)(value >> (8 * i));
}

#endif /* EBB_LE_H */
