// SPDX-License-Identifier: GPL-2.0-only
/*
 * object - objects and openers: their lives, their limits, the list of all
 *
 * An object's memory is a shmem file that nobody else can open: ordinary memory, charged to who
 * touches it, swappable, migratable and good for direct I/O, until a part of it is armed. An
 * opener lives as long as its descriptor or a mapping of it, the object as long as an opener.
 *
 * Owns:    the list of all objects, the limits.
 * Thread:  any; the last of an object is freed on the offers' workqueue, behind every offer.
 * Locks:   ebb_objects_lock (leaf): the list, and an object in it. obj->lock outside it.
 * Never:   waits for the host.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hashtable.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>

#include "compat.h"
#include "volatile.h"

static unsigned long max_object_mib;
module_param(max_object_mib, ulong, 0644);
MODULE_PARM_DESC(max_object_mib, "largest object of /dev/ebb, MiB (0: all of RAM)");

static unsigned long max_total_mib;
module_param(max_total_mib, ulong, 0644);
MODULE_PARM_DESC(max_total_mib, "all objects of /dev/ebb together, MiB (0: twice RAM)");

static bool huge = true;
module_param(huge, bool, 0444);
MODULE_PARM_DESC(huge, "memory of objects in huge pages where there are some (Y)");

atomic64_t ebb_counters[EBB_C_MAX];

static DEFINE_SPINLOCK(ebb_objects_lock);
static LIST_HEAD(ebb_objects);
static DEFINE_HASHTABLE(ebb_by_mapping, 8);
static struct kmem_cache *ebb_cache; /* accounted: its control group's list has the object */
static u64 ebb_last_pass;
static u64 ebb_last_id;
static u64 ebb_total_pages;

static struct file_operations ebb_backing_fops;
static struct vfsmount *ebb_mount;

/* The file is reached through a mapping of /dev/ebb and in no other way. */
static int ebb_backing_open(struct inode *inode, struct file *file)
{
	return -ENXIO;
}

static int ebb_backing_mmap(struct file *file, struct vm_area_struct *vma)
{
	return -EINVAL;
}

static struct file *ebb_backing_file(u64 bytes)
{
	struct file *file;

	if (ebb_mount)
		file = shmem_file_setup_with_mnt(ebb_mount, "dev/ebb", bytes, EBB_NORESERVE);
	else
		file = shmem_file_setup("dev/ebb", bytes, EBB_NORESERVE);
	if (IS_ERR(file))
		return file;
	if (!ebb_backing_fops.owner) {
		/* Only what mapped memory needs. */
		ebb_backing_fops.fsync = file->f_op->fsync;
		ebb_backing_fops.open = ebb_backing_open;
		ebb_backing_fops.mmap = ebb_backing_mmap;
		smp_store_release(&ebb_backing_fops.owner, THIS_MODULE);
	}
	/* A mapping holds this file, and so the module. */
	__module_get(THIS_MODULE);
	replace_fops(file, &ebb_backing_fops);
	file_inode(file)->i_fop = &ebb_backing_fops;
	return file;
}

static u64 ebb_limit_pages(unsigned long mib, u64 otherwise)
{
	return mib ? (u64)mib << (20 - PAGE_SHIFT) : otherwise;
}

static int ebb_account(pgoff_t pages)
{
	u64 ram = totalram_pages();
	int err = -EDQUOT;

	if (pages > ebb_limit_pages(READ_ONCE(max_object_mib), ram))
		return -EDQUOT;
	spin_lock(&ebb_objects_lock);
	if (ebb_total_pages + pages <= ebb_limit_pages(READ_ONCE(max_total_mib), 2 * ram)) {
		ebb_total_pages += pages;
		err = 0;
	}
	spin_unlock(&ebb_objects_lock);
	return err;
}

static void ebb_unaccount(pgoff_t pages)
{
	spin_lock(&ebb_objects_lock);
	ebb_total_pages -= pages;
	spin_unlock(&ebb_objects_lock);
}

static void ebb_object_free(struct ebb_object *obj)
{
	struct ebb_chunk *chunk;
	unsigned long at;

	if (!IS_ERR_OR_NULL(obj->file))
		fput(obj->file);
	/* Saved words are content. */
	xa_for_each(&obj->chunks, at, chunk) kvfree_sensitive(chunk, sizeof(*chunk));
	xa_destroy(&obj->chunks);
	ebb_spans_destroy(&obj->global);
	kvfree(obj->offered);
	kvfree(obj->purged);
	ebb_unaccount(obj->pages);
	kmem_cache_free(ebb_cache, obj);
}

/* On the offers' workqueue, so that no offer that holds its pages is in flight. */
static void ebb_object_free_work(struct work_struct *work)
{
	struct ebb_object *obj = container_of(work, struct ebb_object, free_work);
	pgoff_t index;

	/* Nobody wants the content: whoever gets the pages next writes them first. */
	mutex_lock(&obj->lock);
	for_each_set_bit(index, obj->offered, obj->pages) ebb_drop_page(obj, index);
	mutex_unlock(&obj->lock);
	ebb_object_free(obj);
}

static void ebb_object_release(struct kref *ref)
{
	struct ebb_object *obj = container_of(ref, struct ebb_object, ref);

	spin_lock(&ebb_objects_lock);
	list_del(&obj->all);
	hash_del(&obj->by_file);
	spin_unlock(&ebb_objects_lock);
	ebb_lru_del(&ebb_lru, &obj->lru);
	ebb_offers_queue_free(&obj->free_work);
}

void ebb_object_put(struct ebb_object *obj)
{
	kref_put(&obj->ref, ebb_object_release);
}

static struct ebb_object *ebb_object_new(const struct ebb_create *args, pgoff_t pages)
{
	struct ebb_object *obj = kmem_cache_alloc_lru(ebb_cache, &ebb_lru, GFP_KERNEL | __GFP_ZERO);
	size_t longs = BITS_TO_LONGS(pages);

	if (!obj) {
		ebb_unaccount(pages);
		return ERR_PTR(-ENOMEM);
	}
	kref_init(&obj->ref);
	mutex_init(&obj->lock);
	INIT_LIST_HEAD(&obj->openers);
	INIT_LIST_HEAD(&obj->lru);
	xa_init(&obj->chunks);
	ebb_spans_init(&obj->global);
	init_waitqueue_head(&obj->wait);
	INIT_WORK(&obj->free_work, ebb_object_free_work);
	obj->pages = pages;
	obj->unit_pages = args->unit_bytes >> PAGE_SHIFT;
	obj->kind = args->kind;
	obj->flags = args->flags;
	obj->offered = kvcalloc(longs, sizeof(long), GFP_KERNEL_ACCOUNT);
	obj->purged = kvcalloc(longs, sizeof(long), GFP_KERNEL_ACCOUNT);
	obj->file = ebb_backing_file((u64)pages << PAGE_SHIFT);
	if (!obj->offered || !obj->purged || IS_ERR(obj->file)) {
		ebb_object_free(obj);
		return ERR_PTR(-ENOMEM);
	}

	spin_lock(&ebb_objects_lock);
	obj->id = ++ebb_last_id;
	list_add_tail(&obj->all, &ebb_objects);
	hash_add(ebb_by_mapping, &obj->by_file, (unsigned long)ebb_mapping(obj));
	spin_unlock(&ebb_objects_lock);
	return obj;
}

static int ebb_opener_prepare(struct ebb_opener *opener, struct ebb_object *obj)
{
	kvfree(opener->lost); /* of an object that it did not get */
	opener->lost = NULL;
	if (obj->flags & EBB_CREATE_F_GLOBAL || obj->kind == EBB_KIND_CONTENT_FREE)
		return 0;
	opener->lost = kvcalloc(BITS_TO_LONGS(obj->pages), sizeof(long), GFP_KERNEL_ACCOUNT);
	return opener->lost ? 0 : -ENOMEM;
}

/* The opener gets obj, or keeps what it has. The reference goes over. */
static int ebb_opener_set(struct ebb_opener *opener, struct ebb_object *obj)
{
	int err = -EBUSY;

	mutex_lock(&opener->setup_lock);
	if (!opener->obj) {
		err = ebb_opener_prepare(opener, obj);
		/* Everybody who has a say must have marked a range; this one has marked nothing. */
		if (!err)
			err = ebb_lock_landed(obj, 0, obj->pages - 1);
		if (!err) {
			if (!(obj->flags & EBB_CREATE_F_GLOBAL))
				ebb_take_range(obj, 0, obj->pages - 1);
			list_add_tail(&opener->list, &obj->openers);
			smp_store_release(&opener->obj, obj);
			ebb_object_count(obj);
			mutex_unlock(&obj->lock);
		}
	}
	mutex_unlock(&opener->setup_lock);
	if (err)
		ebb_object_put(obj);
	return err;
}

int ebb_object_create(struct ebb_opener *opener, const struct ebb_create *args)
{
	u64 pages = (args->bytes >> PAGE_SHIFT) + !!(args->bytes & ~PAGE_MASK);
	struct ebb_object *obj;
	int err;

	if (!args->bytes || args->kind > EBB_KIND_CONTENT_FREE || args->unit > EBB_UNIT_WHOLE ||
	    args->flags & ~EBB_CREATE_F_GLOBAL || args->reserved[0] || args->reserved[1] ||
	    args->reserved[2])
		return -EINVAL;
	if (args->unit == EBB_UNIT_PAGES ? args->unit_bytes != 0
					 : !args->unit_bytes || args->unit_bytes & ~PAGE_MASK)
		return -EINVAL;
	err = ebb_account(pages);
	if (err)
		return err;
	obj = ebb_object_new(args, pages);
	return IS_ERR(obj) ? PTR_ERR(obj) : ebb_opener_set(opener, obj);
}

int ebb_object_join(struct ebb_opener *opener, struct ebb_opener *other)
{
	struct ebb_object *obj = smp_load_acquire(&other->obj);

	if (!obj)
		return -EINVAL;
	kref_get(&obj->ref);
	return ebb_opener_set(opener, obj);
}

struct ebb_opener *ebb_opener_new(void)
{
	struct ebb_opener *opener = kzalloc(sizeof(*opener), GFP_KERNEL_ACCOUNT);

	if (!opener)
		return NULL;
	kref_init(&opener->ref);
	mutex_init(&opener->setup_lock);
	spin_lock_init(&opener->event_lock);
	init_waitqueue_head(&opener->event_wait);
	ebb_spans_init(&opener->own);
	return opener;
}

void ebb_opener_get(struct ebb_opener *opener)
{
	kref_get(&opener->ref);
}

static void ebb_opener_release(struct kref *ref)
{
	struct ebb_opener *opener = container_of(ref, struct ebb_opener, ref);
	struct ebb_object *obj = opener->obj;

	if (obj) {
		mutex_lock(&obj->lock);
		list_del(&opener->list);
		ebb_object_count(obj);
		mutex_unlock(&obj->lock);
		ebb_object_put(obj);
	}
	ebb_spans_destroy(&opener->own);
	kvfree(opener->lost);
	kfree(opener);
}

void ebb_opener_put(struct ebb_opener *opener)
{
	kref_put(&opener->ref, ebb_opener_release);
}

u64 ebb_object_new_pass(void)
{
	u64 pass;

	spin_lock(&ebb_objects_lock);
	pass = ++ebb_last_pass;
	spin_unlock(&ebb_objects_lock);
	return pass;
}

/* The object marked longest ago that this pass has not seen yet, with a reference. */
struct ebb_object *ebb_object_next(u64 pass)
{
	struct ebb_object *obj, *found = NULL;

	spin_lock(&ebb_objects_lock);
	list_for_each_entry(obj, &ebb_objects, all) {
		if (obj->seen_in_pass >= pass || !kref_get_unless_zero(&obj->ref))
			continue;
		obj->seen_in_pass = pass;
		found = obj;
		break;
	}
	spin_unlock(&ebb_objects_lock);
	return found;
}

/* The object whose memory this is, with a reference. The pointer is only compared. */
struct ebb_object *ebb_object_of_mapping(struct address_space *mapping)
{
	struct ebb_object *obj, *found = NULL;

	spin_lock(&ebb_objects_lock);
	hash_for_each_possible(ebb_by_mapping, obj, by_file, (unsigned long)mapping)
	{
		if (ebb_mapping(obj) == mapping && kref_get_unless_zero(&obj->ref)) {
			found = obj;
			break;
		}
	}
	spin_unlock(&ebb_objects_lock);
	return found;
}

void ebb_object_marked(struct ebb_object *obj)
{
	WRITE_ONCE(obj->has_news, true);
	spin_lock(&ebb_objects_lock);
	list_move_tail(&obj->all, &ebb_objects);
	spin_unlock(&ebb_objects_lock);
	ebb_lru_move_to_tail(&ebb_lru, &obj->lru);
}

/* Of all objects: what the host has, and has not been seen to take. */
u64 ebb_objects_offered_pages(void)
{
	struct ebb_object *obj;
	u64 pages = 0;

	spin_lock(&ebb_objects_lock);
	list_for_each_entry(obj, &ebb_objects, all)
		pages += READ_ONCE(obj->offered_pages);
	spin_unlock(&ebb_objects_lock);
	return pages;
}

/* A mount of our own, since only a mount can ask for huge pages. Without one: small pages. */
static struct vfsmount *ebb_huge_mount(void)
{
	struct file_system_type *type = get_fs_type("tmpfs");
	char options[] = "huge=within_size";
	struct vfsmount *mount;

	if (!type)
		return NULL;
	mount = vfs_kern_mount(type, SB_KERNMOUNT, type->name, options);
	module_put(type->owner);
	return IS_ERR(mount) ? NULL : mount;
}

int ebb_objects_init(void)
{
	ebb_cache =
		kmem_cache_create("ebb_object", sizeof(struct ebb_object), 0, SLAB_ACCOUNT, NULL);
	if (!ebb_cache)
		return -ENOMEM;
	if (huge)
		ebb_mount = ebb_huge_mount();
	return 0;
}

void ebb_objects_exit(void)
{
	kmem_cache_destroy(ebb_cache);
	if (ebb_mount)
		kern_unmount(ebb_mount);
}
