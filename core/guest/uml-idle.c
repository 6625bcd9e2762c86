/*
 * Preloaded into User-Mode Linux: an interrupt that comes while the kernel is about to idle is not
 * slept through.
 *
 * The kernel looks whether there is something to do, and then calls os_idle_sleep
 * (arch/um/os-Linux/time.c), which sleeps by sigsuspend(2) until the next signal. A SIGIO between
 * the two, by which a device interrupts, is only noted, and the kernel sleeps until its timer's
 * next tick, up to 10 ms. Whether a daemon answers in that moment is luck, and has nothing to do
 * with how fast it is. Here sigsuspend returns at once if a SIGIO came since the last sleep.
 */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What libc calls sigaction by itself. */
int __sigaction(int, const struct sigaction *, struct sigaction *);

/* The kernel's set is shorter than libc's. */
#define KERNEL_SIGSET_BYTES 8

static volatile sig_atomic_t came;
static void (*handler)(int, siginfo_t *, void *);

static void note(int number, siginfo_t *info, void *context) {
  came = 1;
  handler(number, info, context);
}

int sigaction(int number, const struct sigaction *action, struct sigaction *old) {
  if (number != SIGIO) return __sigaction(number, action, old);
  void (*former)(int, siginfo_t *, void *) = handler;
  struct sigaction noted;
  if (action && action->sa_flags & SA_SIGINFO) {
    noted = *action;
    noted.sa_sigaction = note;
    handler = action->sa_sigaction;
    action = &noted;
  }
  int code = __sigaction(number, action, old);
  if (old && old->sa_sigaction == note) old->sa_sigaction = former;
  return code;
}

int sigsuspend(const sigset_t *mask) {
  sigset_t io, before;
  sigemptyset(&io);
  sigaddset(&io, SIGIO);
  sigprocmask(SIG_BLOCK, &io, &before);
  int isOwed = came;
  came = 0;
  if (isOwed) errno = EINTR;
  else syscall(SYS_rt_sigsuspend, mask, KERNEL_SIGSET_BYTES);
  /* The one that has ended the sleep is dealt with when this returns. */
  if (!isOwed) came = 0;
  int code = errno;
  sigprocmask(SIG_SETMASK, &before, NULL);
  errno = code;
  return -1;
}
