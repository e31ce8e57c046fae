// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio_ebb - tell the host which of this guest's memory is free
 *
 * The device's specification is docs/device.md, its ABI virtio_ebb.h. This file is the
 * device's life: probe, stop, reset, suspend, shutdown, changes of the configuration.
 *
 * However the device's life ends, the order is the same (rule 1): nothing new is sent;
 * the device is reset; only then is what it held taken back; then everything that might
 * send is waited for; then the virtqueues go. A broken device is reset, too, and stays
 * unused until the driver is bound to it again.
 *
 * Owns:    the life of struct ebb_device.
 * Thread:  probe, remove, freeze and restore are serialised by the driver core; the
 *          reboot notifier and reset_work may come at any time.
 * Locks:   reset_lock around a reset; vq_lock (leaf) inside it.
 * Never:   takes pages back on a time-out or because a queue is broken.
 */
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/oom.h>
#include <linux/reboot.h>
#include <linux/slab.h>
#include <linux/virtio_ring.h>
#include <uapi/linux/virtio_ids.h>

#include "compat.h"
#include "ebb.h"
#include "volatile.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* What a register of a PCI device reads that is no longer there; no status has all bits. */
#define STATUS_OF_NO_DEVICE 0xff

bool ebb_is_accepting(struct ebb_device *ebb)
{
	return READ_ONCE(ebb->accepting);
}

/* Send nothing any more; false: so it was already. */
static bool ebb_stop_accepting(struct ebb_device *ebb)
{
	unsigned long flags;
	bool was;

	spin_lock_irqsave(&ebb->vq_lock, flags);
	was = ebb->accepting;
	WRITE_ONCE(ebb->accepting, false);
	spin_unlock_irqrestore(&ebb->vq_lock, flags);
	return was;
}

/*
 * The device has broken the specification, or says that it is broken. Any context; the
 * reset is done by reset_work.
 */
void ebb_fail(struct ebb_device *ebb, const char *what)
{
	if (!ebb_stop_accepting(ebb))
		return;
	dev_err(&ebb->vdev->dev,
		"%s: device reset; it is unused until the driver is bound to it again\n", what);
	schedule_work(&ebb->reset_work);
}

/* A device that is broken or gone answers nothing any more. Returns whether it is well. */
bool ebb_look_for_trouble(struct ebb_device *ebb)
{
	u8 status = ebb->vdev->config->get_status(ebb->vdev);

	if (status == STATUS_OF_NO_DEVICE)
		ebb_fail(ebb, "the device is gone");
	else if (status & VIRTIO_CONFIG_S_NEEDS_RESET)
		ebb_fail(ebb, "the device says that it needs a reset");
	else
		return true;
	return false;
}

/*
 * Take back everything that the device holds. Once a reset has completed the device acts
 * on nothing any more; the same is true of a device that was pulled out, which would never
 * complete one.
 */
static void ebb_reset(struct ebb_device *ebb)
{
	struct virtio_device *vdev = ebb->vdev;

	mutex_lock(&ebb->reset_lock);
	if (vdev->config->get_status(vdev) == STATUS_OF_NO_DEVICE)
		virtio_synchronize_cbs(vdev);
	else
		virtio_reset_device(vdev);
	ebb_request_abort(ebb, &ebb->offer);
	ebb_request_abort(ebb, &ebb->reply);
	ebb_request_abort(ebb, &ebb->volatile_offer);
	ebb_request_abort(ebb, &ebb->hints.request);
	complete_all(&ebb->reset_done);
	mutex_unlock(&ebb->reset_lock);
}

static void ebb_reset_work(struct work_struct *work)
{
	struct ebb_device *ebb = container_of(work, struct ebb_device, reset_work);

	virtio_break_device(ebb->vdev);
	ebb_reset(ebb);
}

/*
 * Read what the host wants. Never waits for an answer, so that a change to REST ends an
 * offer under way and a broken device is noticed while the worker waits for it.
 */
static void ebb_config_work(struct work_struct *work)
{
	struct ebb_device *ebb = container_of(work, struct ebb_device, config_work);
	struct virtio_device *vdev = ebb->vdev;
	u32 reporting, generation;

	if (!ebb_is_accepting(ebb) || !ebb_look_for_trouble(ebb))
		return;
	virtio_cread_le(vdev, struct virtio_ebb_config, reporting, &reporting);
	virtio_cread_le(vdev, struct virtio_ebb_config, reoffer_generation, &generation);
	if (generation != ebb->reoffer_generation) {
		WRITE_ONCE(ebb->offer_anew, true);
		ebb_offers_anew(ebb);
	}
	ebb->reoffer_generation = generation;
	WRITE_ONCE(ebb->run, reporting == VIRTIO_EBB_REPORTING_RUN);
	ebb_offers_kick(0);
	ebb_hints_kick(ebb);
	queue_work(ebb->wq, &ebb->pass_work);
}

/* May be interrupt context. */
static void ebb_config_changed(struct virtio_device *vdev)
{
	struct ebb_device *ebb = vdev->priv;

	schedule_work(&ebb->config_work);
}

static int ebb_find_vqs(struct ebb_device *ebb)
{
	vq_callback_t *callbacks[] = {
		[VIRTIO_EBB_VQ_REPORT] = ebb_report_vq_callback,
		[VIRTIO_EBB_VQ_COMMAND] = ebb_command_vq_callback,
	};
	static const char *const names[] = {
		[VIRTIO_EBB_VQ_REPORT] = "report",
		[VIRTIO_EBB_VQ_COMMAND] = "command",
	};
	struct virtqueue *vqs[VIRTIO_EBB_VQ_MAX];
	int err;

	BUILD_BUG_ON(VIRTIO_EBB_VQ_MAX > EBB_VQS_MAX);
	err = ebb_virtio_find_vqs(ebb->vdev, VIRTIO_EBB_VQ_MAX, vqs, callbacks, names);
	if (err)
		return err;
	if (virtqueue_get_vring_size(vqs[VIRTIO_EBB_VQ_REPORT]) < EBB_REPORT_ENTRIES) {
		dev_err(&ebb->vdev->dev, "the report queue has fewer than %d entries\n",
			EBB_REPORT_ENTRIES);
		ebb->vdev->config->del_vqs(ebb->vdev);
		return -EINVAL;
	}
	ebb->report_vq = vqs[VIRTIO_EBB_VQ_REPORT];
	ebb->command_vq = vqs[VIRTIO_EBB_VQ_COMMAND];
	return 0;
}

/* Bring the device up: after probe, or again after a suspend. */
static int ebb_start(struct ebb_device *ebb)
{
	int err = ebb_find_vqs(ebb);

	if (err)
		return err;
	/* What the kernel reports before the device accepts it is passed over. */
	ebb_report_register(ebb);
	virtio_device_ready(ebb->vdev);
	reinit_completion(&ebb->reset_done);

	spin_lock_irq(&ebb->vq_lock);
	WRITE_ONCE(ebb->accepting, true);
	ebb_command_post_all(ebb);
	spin_unlock_irq(&ebb->vq_lock);

	/* The device knows nothing of what was reported before its reset. */
	WRITE_ONCE(ebb->offer_anew, true);
	ebb_offers_start(ebb);
	schedule_work(&ebb->config_work);
	return 0;
}

static void ebb_detach(struct virtqueue *vq)
{
	while (virtqueue_detach_unused_buf(vq))
		;
}

/* Take everything back and wait for everything that might send. May be called again. */
static void ebb_stop(struct ebb_device *ebb)
{
	ebb_stop_accepting(ebb);
	ebb_reset(ebb);
	cancel_work_sync(&ebb->reset_work);
	cancel_work_sync(&ebb->config_work);
	cancel_work_sync(&ebb->pass_work);
	cancel_work_sync(&ebb->command_work);
	ebb_offers_stop(ebb);
	ebb_hints_stop(ebb);
	ebb_report_unregister(ebb);
	WRITE_ONCE(ebb->run, false);
	if (!ebb->report_vq)
		return;
	ebb_detach(ebb->report_vq);
	ebb_detach(ebb->command_vq);
	ebb->vdev->config->del_vqs(ebb->vdev);
	ebb->report_vq = NULL;
	ebb->command_vq = NULL;
}

/*
 * Before a reboot, a power off or a kexec. The kernel's own shutdown breaks the queues
 * before it resets the device: what is in flight then would be waited for without end.
 */
static int ebb_reboot_notify(struct notifier_block *nb, unsigned long code, void *unused)
{
	struct ebb_device *ebb = container_of(nb, struct ebb_device, reboot_nb);

	ebb_stop_accepting(ebb);
	ebb_reset(ebb);
	return NOTIFY_DONE;
}

static int ebb_alloc_buffers(struct ebb_device *ebb)
{
	int err;

	err = ebb_request_init(&ebb->offer,
			       sizeof(struct virtio_ebb_req_hdr) +
				       ebb->max_ranges * sizeof(struct virtio_ebb_range),
			       sizeof(struct virtio_ebb_resp_hdr) +
				       ebb->max_ranges * sizeof(struct virtio_ebb_verdict));
	if (err)
		return err;
	err = ebb_request_init(&ebb->reply,
			       sizeof(struct virtio_ebb_req_hdr) +
				       max(VIRTIO_EBB_S_MAX * sizeof(struct virtio_ebb_stat),
					   sizeof(struct virtio_ebb_done)),
			       sizeof(struct virtio_ebb_resp_hdr));
	if (err)
		return err;
	err = ebb_request_init(&ebb->volatile_offer,
			       sizeof(struct virtio_ebb_req_hdr) +
				       ebb->volatile_ranges * sizeof(struct virtio_ebb_range),
			       sizeof(struct virtio_ebb_resp_hdr) +
				       ebb->volatile_ranges * sizeof(struct virtio_ebb_verdict));
	if (err)
		return err;
	err = ebb_hints_init(ebb);
	if (err)
		return err;
	ebb->commands = kcalloc(EBB_COMMAND_BUFFERS, sizeof(*ebb->commands), GFP_KERNEL);
	ebb->wq = alloc_ordered_workqueue("virtio_ebb", 0);
	return ebb->commands && ebb->wq ? 0 : -ENOMEM;
}

static void ebb_free(struct ebb_device *ebb)
{
	if (ebb->wq)
		destroy_workqueue(ebb->wq);
	kfree(ebb->commands);
	ebb_request_destroy(&ebb->offer);
	ebb_request_destroy(&ebb->reply);
	ebb_request_destroy(&ebb->volatile_offer);
	ebb_hints_destroy(ebb);
	kfree(ebb);
}

static int ebb_read_limits(struct ebb_device *ebb)
{
	u32 page_bytes, block_bytes, max_ranges;
	enum virtio_ebb_fault fault;

	virtio_cread_le(ebb->vdev, struct virtio_ebb_config, page_bytes, &page_bytes);
	virtio_cread_le(ebb->vdev, struct virtio_ebb_config, block_bytes, &block_bytes);
	virtio_cread_le(ebb->vdev, struct virtio_ebb_config, max_ranges, &max_ranges);
	fault = virtio_ebb_check_config(page_bytes, block_bytes, max_ranges);
	if (fault) {
		dev_err(&ebb->vdev->dev,
			"bad configuration: page_bytes %u, block_bytes %u, max_ranges %u: %s\n",
			page_bytes, block_bytes, max_ranges, virtio_ebb_fault_text(fault));
		return -EINVAL;
	}
	ebb->max_ranges = min_t(u32, max_ranges, EBB_BATCH_RANGES);
	ebb->volatile_ranges = max_ranges;
	ebb->hints.max_count = min_t(u32, max_ranges, EBB_HINT_ENTRIES);
	return 0;
}

static struct ebb_device *ebb_alloc(struct virtio_device *vdev)
{
	struct ebb_device *ebb = kzalloc(sizeof(*ebb), GFP_KERNEL);

	if (!ebb)
		return NULL;
	ebb->vdev = vdev;
	vdev->priv = ebb;
	spin_lock_init(&ebb->vq_lock);
	spin_lock_init(&ebb->need_lock);
	mutex_init(&ebb->reset_lock);
	init_completion(&ebb->reset_done);
	INIT_WORK(&ebb->reset_work, ebb_reset_work);
	INIT_WORK(&ebb->config_work, ebb_config_work);
	INIT_WORK(&ebb->pass_work, ebb_pass_work);
	INIT_WORK(&ebb->command_work, ebb_command_work);
	ebb->reboot_nb.notifier_call = ebb_reboot_notify;
	ebb->oom_nb.notifier_call = ebb_oom_notify;
	return ebb;
}

static int ebb_probe(struct virtio_device *vdev)
{
	struct ebb_device *ebb = ebb_alloc(vdev);
	int err;

	if (!ebb)
		return -ENOMEM;
	err = ebb_read_limits(ebb);
	if (err)
		goto err_free;
	err = ebb_alloc_buffers(ebb);
	if (err)
		goto err_free;
	ebb->poisoned = ebb_free_pages_hold_pattern();
	if (ebb->poisoned)
		dev_notice(&vdev->dev,
			   "free memory is not offered: page_poison=1 fills it with a pattern\n");
	err = register_oom_notifier(&ebb->oom_nb);
	if (err)
		goto err_free;
	err = register_reboot_notifier(&ebb->reboot_nb);
	if (err)
		goto err_oom;
	err = ebb_start(ebb);
	if (err)
		goto err_reboot;
	return 0;

err_reboot:
	unregister_reboot_notifier(&ebb->reboot_nb);
err_oom:
	unregister_oom_notifier(&ebb->oom_nb);
err_free:
	ebb_free(ebb);
	return err;
}

static void ebb_remove(struct virtio_device *vdev)
{
	struct ebb_device *ebb = vdev->priv;

	unregister_reboot_notifier(&ebb->reboot_nb);
	unregister_oom_notifier(&ebb->oom_nb);
	ebb_stop(ebb);
	ebb_free(ebb);
}

#ifdef CONFIG_PM_SLEEP
static int ebb_freeze(struct virtio_device *vdev)
{
	ebb_stop(vdev->priv);
	return 0;
}

static int ebb_restore(struct virtio_device *vdev)
{
	return ebb_start(vdev->priv);
}
#endif

/*
 * Without reports there is nothing to release. And without indirect descriptors, nothing is
 * allocated to make a request available.
 */
static int ebb_validate(struct virtio_device *vdev)
{
	u32 page_bytes;

	if (!virtio_has_feature(vdev, VIRTIO_F_VERSION_1)) {
		dev_err(&vdev->dev, "a device without VIRTIO_F_VERSION_1 is not one of ours\n");
		return -EINVAL;
	}
	if (!virtio_has_feature(vdev, VIRTIO_EBB_F_REPORT)) {
		__virtio_clear_bit(vdev, VIRTIO_EBB_F_RELEASE);
		__virtio_clear_bit(vdev, VIRTIO_EBB_F_COLLECT);
	}
	/* A cookie in each page of ours tells nothing of a larger one of the host (rule 3). */
	virtio_cread_le(vdev, struct virtio_ebb_config, page_bytes, &page_bytes);
	if (page_bytes != PAGE_SIZE || ebb_free_pages_hold_pattern())
		__virtio_clear_bit(vdev, VIRTIO_EBB_F_VOLATILE);
	__virtio_clear_bit(vdev, VIRTIO_RING_F_INDIRECT_DESC);
	return 0;
}

static const struct virtio_device_id ebb_ids[] = {
	{ VIRTIO_ID_EBB, VIRTIO_DEV_ANY_ID },
	{ 0 },
};

static const unsigned int ebb_features[] = {
	VIRTIO_EBB_F_REPORT,   VIRTIO_EBB_F_RELEASE, VIRTIO_EBB_F_STATS,
	VIRTIO_EBB_F_VOLATILE, VIRTIO_EBB_F_HINT,    VIRTIO_EBB_F_COLLECT,
};

static struct virtio_driver ebb_driver = {
	.driver.name = KBUILD_MODNAME,
	.driver.owner = THIS_MODULE,
	.id_table = ebb_ids,
	.feature_table = ebb_features,
	.feature_table_size = ARRAY_SIZE(ebb_features),
	.validate = ebb_validate,
	.probe = ebb_probe,
	.remove = ebb_remove,
	.config_changed = ebb_config_changed,
#ifdef CONFIG_PM_SLEEP
	.freeze = ebb_freeze,
	.restore = ebb_restore,
#endif
};

static int __init ebb_init(void)
{
	int err;

	err = ebb_objects_init();
	if (err)
		return err;
	err = ebb_offers_init();
	if (err)
		goto err_objects;
	err = ebb_purge_init();
	if (err)
		goto err_offers;
	err = ebb_devnode_init();
	if (err)
		goto err_purge;
	err = register_virtio_driver(&ebb_driver);
	if (err)
		goto err_devnode;
	return 0;

err_devnode:
	ebb_devnode_exit();
err_purge:
	ebb_purge_exit();
err_offers:
	ebb_offers_exit();
err_objects:
	ebb_objects_exit();
	return err;
}

/* No opener and no mapping is left: each of them holds the module. */
static void __exit ebb_exit(void)
{
	unregister_virtio_driver(&ebb_driver);
	ebb_devnode_exit();
	ebb_purge_exit();
	ebb_offers_exit();
	ebb_objects_exit();
}

module_init(ebb_init);
module_exit(ebb_exit);
MODULE_DEVICE_TABLE(virtio, ebb_ids);
MODULE_DESCRIPTION("Tells the host which of this guest's memory is free");
MODULE_LICENSE("GPL");
