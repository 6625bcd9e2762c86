/*
 * What the guest of `npm run bench -- --guest` runs: work on many small files with nothing between
 * the system calls, and the clock around any command. In User-Mode Linux each new process takes
 * many milliseconds, so that one stays for all of a comparison.
 *
 *   files tree FOLDER COUNT   a tree of files of 100 bytes to 40 kB, the same each time
 *   files obey                takes commands from its input: a line "FOLDER LENGTH", and LENGTH bytes of a
 *                             script for the shell, or "create COUNT", "stat COUNT", "read COUNT",
 *                             "unlink COUNT" after a "!": calls on so many files. Before each it drops what
 *                             the guest has cached. It prints "begin", and "done EXIT_CODE NANOSECONDS"
 *                             when the command has ended.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Bytes of a small file. */
#define SMALL 1000
/* Files of one folder of the tree, and bytes of its largest file. */
#define TREE_FOLDER 12
#define TREE_LARGEST 40000

static char data[TREE_LARGEST];

static int failed;

static void fail(const char *what) {
  fprintf(stderr, "files: %s: %s\n", what, strerror(errno));
  failed = 1;
}

static void put(const char *path, size_t size) {
  int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
  if (fd < 0 || write(fd, data, size) != (ssize_t)size || close(fd) != 0) fail(path);
}

static void each(const char *verb, int count) {
  char path[4096];
  struct stat attributes;
  for (int i = 0; i < count && !failed; i++) {
    snprintf(path, sizeof path, "file%d", i);
    switch (verb[0]) {
      case 'c':
        put(path, SMALL);
        break;
      case 's':
        if (stat(path, &attributes) != 0 || attributes.st_size != SMALL) fail(path);
        break;
      case 'r': {
        int fd = open(path, O_RDONLY);
        if (fd < 0 || read(fd, data, SMALL) != SMALL || close(fd) != 0) fail(path);
        break;
      }
      case 'u':
        if (unlink(path) != 0) fail(path);
    }
  }
}

/* Numbers that are the same each time: those of a linear congruential generator. */
static unsigned state = 1;
static unsigned next(void) { return (state = state * 1103515245u + 12345u) >> 8; }

static void tree(const char *folder, int count) {
  char path[4096];
  if (mkdir(folder, 0755) != 0) fail(folder);
  for (int i = 0; i < count && !failed; i++) {
    int inner = i / TREE_FOLDER;
    if (i % TREE_FOLDER == 0) {
      snprintf(path, sizeof path, "%s/folder%d", folder, inner);
      if (mkdir(path, 0755) != 0) fail(path);
    }
    /* Text that compresses like text, and small files more often than large ones. */
    size_t size = 100u << (next() % 8);
    size += next() % size;
    for (size_t at = 0; at < size; at++) data[at] = at % 16 == 15 ? '\n' : 'a' + next() % 26;
    snprintf(path, sizeof path, "%s/folder%d/file%d.txt", folder, inner, i);
    put(path, size);
  }
}

static long long now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000ll + time.tv_nsec;
}

static int shell(const char *script) {
  int status;
  pid_t child = fork();
  if (child == 0) {
    execl("/bin/sh", "sh", "-c", script, (char *)NULL);
    _exit(127);
  }
  if (child < 0 || waitpid(child, &status, 0) != child) return 255;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void drop_caches(void) {
  sync();
  int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
  if (fd < 0 || write(fd, "3", 1) != 1) fail("drop_caches");
  close(fd);
}

/* A line has left the guest, and daemons know what was dropped, before the next thing begins. */
static void say(const char *line) {
  struct timespec pause = {0, 50000000};
  puts(line);
  fflush(stdout);
  nanosleep(&pause, NULL);
}

static void obey(void) {
  char folder[4096], verb[16], line[100];
  size_t length;
  int count, code;
  while (scanf("%4095s %zu", folder, &length) == 2) {
    char *script = calloc(1, length + 1);
    if (getchar() != '\n' || fread(script, 1, length, stdin) != length) return;
    failed = 0;
    drop_caches();
    if (chdir(folder) != 0) fail(folder);
    struct timespec pause = {0, 200000000};
    nanosleep(&pause, NULL);
    say("begin");
    long long began = now();
    if (failed) code = 1;
    else if (sscanf(script, "!%15s %d", verb, &count) == 2) each(verb, count), code = failed;
    else code = shell(script);
    snprintf(line, sizeof line, "done %d %lld", code, now() - began);
    say(line);
    free(script);
  }
}

int main(int argc, char **argv) {
  memset(data, 'x', sizeof data);
  if (argc == 2 && strcmp(argv[1], "obey") == 0) obey();
  else if (argc == 4 && strcmp(argv[1], "tree") == 0) tree(argv[2], atoi(argv[3]));
  else return 2;
  return failed;
}
