// SPDX-License-Identifier: GPL-2.0-only
/*
 * devnode - /dev/ebb: open, ioctl, mmap, read, poll
 *
 * Owns:    the device node.
 * Thread:  the callers'.
 * Locks:   the object's lock, never across a copy from or to user memory: that memory may be the
 *          object's own.
 * Never:   touches an object's pages itself.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "volatile.h"

static const struct file_operations ebb_fops;

static int ebb_open(struct inode *inode, struct file *file)
{
	struct ebb_opener *opener = ebb_opener_new();

	if (!opener)
		return -ENOMEM;
	file->private_data = opener;
	return nonseekable_open(inode, file);
}

static int ebb_release_file(struct inode *inode, struct file *file)
{
	ebb_opener_put(file->private_data);
	return 0;
}

static int ebb_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct ebb_opener *opener = file->private_data;
	struct ebb_object *obj = smp_load_acquire(&opener->obj);

	if (!obj || !(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_pgoff > obj->pages || vma_pages(vma) > obj->pages - vma->vm_pgoff)
		return -EINVAL;
	/* Reverse mapping finds the area by the file whose pages it maps. */
	vma_set_file(vma, obj->file);
	ebb_opener_get(opener);
	vma->vm_private_data = opener;
	/* MADV_COLLAPSE would map, without a touch, what is volatile or was purged. */
	ebb_vma_set_flags(vma, VM_NOHUGEPAGE);
	vma->vm_ops = &ebb_vm_ops;
	return 0;
}

/* Where huge pages can be mapped as such. */
static unsigned long ebb_get_unmapped_area(struct file *file, unsigned long addr, unsigned long len,
					   unsigned long pgoff, unsigned long flags)
{
	unsigned long at, offset = pgoff << PAGE_SHIFT;

	if (!addr && !(flags & MAP_FIXED) && len >= PMD_SIZE && len + PMD_SIZE > len) {
		at = ebb_find_area(file, 0, len + PMD_SIZE - PAGE_SIZE, 0, flags);
		if (!IS_ERR_VALUE(at))
			return at + ((offset - at) & ~PMD_MASK);
	}
	return ebb_find_area(file, addr, len, pgoff, flags);
}

/* Pages of [offset, offset + bytes), rounded outward. */
static int ebb_range_pages(struct ebb_object *obj, u64 offset, u64 bytes, pgoff_t *first,
			   pgoff_t *last)
{
	u64 size = (u64)obj->pages << PAGE_SHIFT;

	if (bytes < PAGE_SIZE || offset > size || bytes > size - offset)
		return -EINVAL;
	*first = offset >> PAGE_SHIFT;
	*last = (offset + bytes - 1) >> PAGE_SHIFT;
	return 0;
}

/* Likewise, rounded inward; 1: no whole page is left. */
static int ebb_range_whole_pages(struct ebb_object *obj, const struct ebb_range *range,
				 pgoff_t *first, pgoff_t *last)
{
	pgoff_t end;

	if (range->flags || range->reserved ||
	    ebb_range_pages(obj, range->offset, range->bytes, first, last))
		return -EINVAL;
	*first = (range->offset + PAGE_SIZE - 1) >> PAGE_SHIFT;
	end = (range->offset + range->bytes) >> PAGE_SHIFT;
	*last = end - 1;
	return *first >= end;
}

/* Has the caller locked memory of the range? */
static bool ebb_range_is_locked(struct ebb_object *obj, pgoff_t first, pgoff_t last)
{
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma;
	VMA_ITERATOR(areas, mm, 0);
	bool locked = false;

	if (!READ_ONCE(mm->locked_vm))
		return false;
	mmap_read_lock(mm);
	for_each_vma(areas, vma)
	{
		if (vma->vm_file == obj->file && vma->vm_flags & VM_LOCKED &&
		    vma->vm_pgoff <= last && vma->vm_pgoff + vma_pages(vma) > first) {
			locked = true;
			break;
		}
	}
	mmap_read_unlock(mm);
	return locked;
}

static int ebb_ioctl_volatile(struct ebb_opener *opener, const struct ebb_range *range)
{
	struct ebb_object *obj = opener->obj;
	pgoff_t first, last;
	int err;

	err = ebb_range_whole_pages(obj, range, &first, &last);
	if (err)
		return err < 0 ? err : 0;
	if (ebb_range_is_locked(obj, first, last))
		return -EINVAL;
	if (mutex_lock_killable(&obj->lock))
		return -EINTR;
	err = ebb_spans_set(ebb_spans_of(opener), first, last, ebb_now());
	if (!err) {
		ebb_object_count(obj);
		/* A touch after this ends volatility without another word: it must be seen. */
		if (obj->kind == EBB_KIND_CONTENT_FREE)
			ebb_unmap_marked(obj, first, last);
		ebb_object_marked(obj);
	}
	mutex_unlock(&obj->lock);
	if (!err)
		ebb_offers_marked();
	return err;
}

static int ebb_make_nonvolatile(struct ebb_opener *opener, pgoff_t first, pgoff_t last,
				unsigned long *bitmap, u64 *purged_pages)
{
	struct ebb_object *obj = opener->obj;
	int err = ebb_lock_landed(obj, first, last);

	if (err)
		return err;
	err = ebb_spans_clear(ebb_spans_of(opener), first, last);
	if (!err) {
		ebb_object_count(obj);
		ebb_take_range(obj, first, last);
		*purged_pages = ebb_forget_purged(opener, first, last, bitmap);
	}
	mutex_unlock(&obj->lock);
	return err;
}

static int ebb_ioctl_nonvolatile(struct ebb_opener *opener, struct ebb_nonvolatile *args)
{
	unsigned long *bitmap = NULL;
	pgoff_t first, last;
	size_t bytes;
	int err;

	if (args->flags || args->reserved ||
	    ebb_range_pages(opener->obj, args->offset, args->bytes, &first, &last))
		return -EINVAL;
	bytes = BITS_TO_U64(last - first + 1) * sizeof(u64);
	if (args->bitmap ? args->bitmap_bytes < bytes || args->bitmap_bytes % sizeof(u64)
			 : args->bitmap_bytes != 0)
		return -EINVAL;
	if (args->bitmap) {
		bitmap = kvzalloc(bytes, GFP_KERNEL_ACCOUNT);
		if (!bitmap)
			return -ENOMEM;
	}
	err = ebb_make_nonvolatile(opener, first, last, bitmap, &args->purged_pages);
	if (!err && bitmap && copy_to_user(u64_to_user_ptr(args->bitmap), bitmap, bytes))
		err = -EFAULT;
	kvfree(bitmap);
	return err ?: args->purged_pages != 0;
}

static u64 ebb_count_bits(const unsigned long *bits, pgoff_t first, pgoff_t last)
{
	pgoff_t index;
	u64 count = 0;

	for (index = find_next_bit(bits, last + 1, first); index <= last;
	     index = find_next_bit(bits, last + 1, index + 1))
		count++;
	return count;
}

static u64 ebb_count_purged(struct ebb_opener *opener, pgoff_t first, pgoff_t last)
{
	u64 count = ebb_count_bits(opener->obj->purged, first, last);
	pgoff_t index;

	if (!opener->lost)
		return count;
	for (index = find_next_bit(opener->lost, last + 1, first); index <= last;
	     index = find_next_bit(opener->lost, last + 1, index + 1))
		count += !test_bit(index, opener->obj->purged);
	return count;
}

static int ebb_ioctl_query(struct ebb_opener *opener, struct ebb_query *args)
{
	struct ebb_object *obj = opener->obj;
	pgoff_t first, last, from, start, end;
	u64 epoch;

	if (args->flags || args->reserved ||
	    ebb_range_pages(obj, args->offset, args->bytes, &first, &last))
		return -EINVAL;
	*args = (struct ebb_query){
		.offset = args->offset,
		.bytes = args->bytes,
		.object = obj->id,
		.object_bytes = (u64)obj->pages << PAGE_SHIFT,
		.unit_bytes = (u64)obj->unit_pages << PAGE_SHIFT,
		.kind = obj->kind,
		.object_flags = obj->flags,
	};
	if (mutex_lock_killable(&obj->lock))
		return -EINTR;
	for (from = first; from <= last; from = end + 1) {
		if (!ebb_spans_common(obj, from, &start, &end, &epoch) || start > last)
			break;
		args->volatile_pages += min(end, last) - start + 1;
	}
	args->offered_pages = ebb_count_bits(obj->offered, first, last);
	args->purged_pages = ebb_count_purged(opener, first, last);
	mutex_unlock(&obj->lock);
	return 0;
}

static int ebb_ioctl_purge(struct ebb_opener *opener, const struct ebb_range *range)
{
	struct ebb_object *obj = opener->obj;
	pgoff_t first, last, from, start, end;
	u64 epoch;
	int err;

	err = ebb_range_whole_pages(obj, range, &first, &last);
	if (err)
		return err < 0 ? err : 0;
	err = ebb_lock_landed(obj, first, last);
	if (err)
		return err;
	for (from = first; from <= last; from = end + 1) {
		if (!ebb_spans_joined(obj, from, last, &start, &end, &epoch) || start > last)
			break;
		end = min(end, last);
		ebb_purge_now(obj, start, end);
	}
	mutex_unlock(&obj->lock);
	return 0;
}

static int ebb_ioctl_join(struct ebb_opener *opener, const struct ebb_join *args)
{
	struct file *file;
	int err = -EINVAL;

	if (args->flags || args->reserved[0] || args->reserved[1])
		return -EINVAL;
	file = fget(args->fd);
	if (!file)
		return -EBADF;
	if (file->f_op == &ebb_fops)
		err = ebb_object_join(opener, file->private_data);
	fput(file);
	return err;
}

union ebb_args {
	struct ebb_create create;
	struct ebb_join join;
	struct ebb_range range;
	struct ebb_nonvolatile nonvolatile;
	struct ebb_query query;
};

static long ebb_do_ioctl(struct ebb_opener *opener, unsigned int cmd, union ebb_args *args)
{
	if (cmd == EBB_IOC_CREATE)
		return ebb_object_create(opener, &args->create);
	if (cmd == EBB_IOC_JOIN)
		return ebb_ioctl_join(opener, &args->join);
	if (!smp_load_acquire(&opener->obj))
		return -EINVAL;
	switch (cmd) {
	case EBB_IOC_VOLATILE:
		return ebb_ioctl_volatile(opener, &args->range);
	case EBB_IOC_NONVOLATILE:
		return ebb_ioctl_nonvolatile(opener, &args->nonvolatile);
	case EBB_IOC_QUERY:
		return ebb_ioctl_query(opener, &args->query);
	case EBB_IOC_PURGE:
		return ebb_ioctl_purge(opener, &args->range);
	}
	return -ENOTTY;
}

static long ebb_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *user = (void __user *)arg;
	union ebb_args args = {};
	long result;

	switch (cmd) {
	case EBB_IOC_CREATE:
	case EBB_IOC_JOIN:
	case EBB_IOC_VOLATILE:
	case EBB_IOC_NONVOLATILE:
	case EBB_IOC_QUERY:
	case EBB_IOC_PURGE:
		break;
	default:
		return -ENOTTY;
	}
	if (copy_from_user(&args, user, _IOC_SIZE(cmd)))
		return -EFAULT;
	result = ebb_do_ioctl(file->private_data, cmd, &args);
	if (result >= 0 && _IOC_DIR(cmd) & _IOC_READ && copy_to_user(user, &args, _IOC_SIZE(cmd)))
		return -EFAULT;
	return result;
}

static ssize_t ebb_read(struct file *file, char __user *buffer, size_t bytes, loff_t *offset)
{
	return ebb_events_read(file->private_data, buffer, bytes, file->f_flags & O_NONBLOCK);
}

static __poll_t ebb_poll(struct file *file, poll_table *wait)
{
	return ebb_events_poll(file->private_data, file, wait);
}

static const struct file_operations ebb_fops = {
	.owner = THIS_MODULE,
	.open = ebb_open,
	.release = ebb_release_file,
	.unlocked_ioctl = ebb_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = ebb_mmap,
	.get_unmapped_area = ebb_get_unmapped_area,
	.read = ebb_read,
	.poll = ebb_poll,
};

/* ---- /sys/class/misc/ebb/counters: pages, since the module was loaded ---- */

#define EBB_COUNTER(name, which)                                                                 \
	static ssize_t name##_show(struct device *dev, struct device_attribute *attr, char *buf) \
	{                                                                                        \
		return sysfs_emit(buf, "%llu\n", ebb_counter(which));                            \
	}                                                                                        \
	static DEVICE_ATTR_RO(name)

EBB_COUNTER(offered, EBB_C_OFFERED);
EBB_COUNTER(whole, EBB_C_WHOLE);
EBB_COUNTER(purged, EBB_C_PURGED);
EBB_COUNTER(strange, EBB_C_STRANGE);
EBB_COUNTER(left_out, EBB_C_LEFT_OUT);
EBB_COUNTER(refused, EBB_C_REFUSED);
EBB_COUNTER(own_purged, EBB_C_OWN_PURGED);
EBB_COUNTER(left_flying, EBB_C_LEFT_FLYING);

static struct attribute *ebb_counter_attrs[] = {
	&dev_attr_offered.attr,	   &dev_attr_whole.attr,       &dev_attr_purged.attr,
	&dev_attr_strange.attr,	   &dev_attr_left_out.attr,    &dev_attr_refused.attr,
	&dev_attr_own_purged.attr, &dev_attr_left_flying.attr, NULL,
};

static const struct attribute_group ebb_counter_group = {
	.name = "counters",
	.attrs = ebb_counter_attrs,
};

static const struct attribute_group *ebb_groups[] = { &ebb_counter_group, NULL };

static struct miscdevice ebb_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "ebb",
	.fops = &ebb_fops,
	.mode = 0660,
	.groups = ebb_groups,
};

int ebb_devnode_init(void)
{
	return misc_register(&ebb_misc);
}

void ebb_devnode_exit(void)
{
	misc_deregister(&ebb_misc);
}
