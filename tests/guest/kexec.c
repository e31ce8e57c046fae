// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * kexec - load a kernel and its initramfs and go over to it at once
 *
 * Owns:    nothing.
 * Thread:  one.
 * Locks:   none.
 * Never:   returns when it has succeeded. The exit status is 1 if the kernel refused, with the
 *          reason on stderr, 2 if it was called wrongly.
 */
#include <fcntl.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

static int failed(const char *what)
{
	perror(what);
	return 1;
}

int main(int argc, char **argv)
{
	int kernel, initrd;

	if (argc != 4) {
		fprintf(stderr, "usage: kexec KERNEL INITRD COMMAND_LINE\n");
		return 2;
	}
	kernel = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (kernel < 0)
		return failed(argv[1]);
	initrd = open(argv[2], O_RDONLY | O_CLOEXEC);
	if (initrd < 0)
		return failed(argv[2]);
	if (syscall(SYS_kexec_file_load, kernel, initrd, strlen(argv[3]) + 1, argv[3], 0UL))
		return failed("kexec_file_load");
	reboot(LINUX_REBOOT_CMD_KEXEC);
	return failed("reboot");
}
