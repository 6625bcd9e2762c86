/**
 * The guest's first process, for busybox's shell. It loads drivers, mounts what `/setup` says, and
 * then runs commands as the host asks over a virtio-serial port:
 *
 *     host → guest   script LENGTH                  LENGTH bytes of base64 follow: more of a script
 *                    run TOKEN null|port            runs the script, its input /dev/null or "stdin"
 *                    shell TOKEN                    the same on the console hvc0
 *                    shutdown
 *     guest → host   ready
 *                    failed TEXT                    could not be set up
 *                    taken                          after each "script"
 *                    exit CODE
 *
 * A script goes into a file, since Linux takes at most 128 KiB in one word of a command line. It
 * comes in pieces, since a serial line loses what its reader does not take in time.
 *
 * A command's output goes through the ports "stdout" and "stderr", each ended by TOKEN; through
 * pipes, so that a command may open /dev/stdout again, which a port would refuse. A command's
 * processes end with it. The guest switches itself off when the host goes away: the port "alive"
 * then reads as ended.
 */
export const INIT = `#!/bin/busybox sh
/bin/busybox mkdir -p /dev /proc /sys /run /tmp /root
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
hostname guest
ip link set lo up

for module in /modules/*; do
  insmod "$module" 2>/run/log || echo "init: insmod $module: $(cat /run/log)"
done

console=/dev/hvc0
read_input() { cat; }
hold() { :; }

# The port with a name, which the driver may still be about to find.
port() {
  tries=0
  while [ $tries -lt 500 ]; do
    for port in /sys/class/virtio-ports/*; do
      if [ "$(cat "$port/name" 2>/dev/null)" = "$1" ] && [ -c "/dev/\${port##*/}" ]; then
        echo "/dev/\${port##*/}"
        return
      fi
    done
    tries=$((tries + 1))
    usleep 20000
  done
  echo "init: no port $1: this kernel lacks virtio_pci or virtio_console" >/dev/console
  poweroff -nf
}

. /transport

control=$(port control)
alive=$(port alive)
stdin=$(port stdin)
stdout=$(port stdout)
stderr=$(port stderr)
exec 3<>"$control"
hold
(exec 3>&- 5>&- 6>&- 7>&- 4<"$alive"; read -r end <&4; poweroff -nf) &
guard=$!

fail() {
  echo "failed $*" >&3
  read -r answer <&3
  poweroff -nf
}

share() { # TAG MOUNT_POINT OPTIONS
  mkdir -p "$2" || fail "mkdir $2"
  mount -t virtiofs -o "$3" "$1" "$2" 2>/run/log || fail "mount -t virtiofs -o $3 $1 $2: $(cat /run/log)"
}

# The share mounted at $1 becomes the root of commands, under a layer in memory that takes what they write.
root_on() {
  mkdir -p /layer /root-of-commands
  mount -t tmpfs layer /layer
  mkdir /layer/upper /layer/work
  mount -t overlay -o "lowerdir=$1,upperdir=/layer/upper,workdir=/layer/work" overlay /root-of-commands 2>/run/log ||
    fail "mount -t overlay: $(cat /run/log)"
  root=/root-of-commands
  for folder in dev proc sys run tmp; do mkdir -p "$root/$folder"; done
  for folder in dev proc sys; do mount -o rbind "/$folder" "$root/$folder"; done
  for folder in run tmp; do mount -t tmpfs "$folder" "$root/$folder"; done
}

# The share mounted at $1 is the root of commands itself; what they write there goes to it.
root_is() {
  root=$1
  for folder in dev proc sys run; do mkdir -p "$root/$folder"; done
  for folder in dev proc sys; do mount -o rbind "/$folder" "$root/$folder"; done
  mount -t tmpfs run "$root/run"
}

root=
. /setup

script=/run/virtiofs-kit-command

take() { # LENGTH
  dd bs="$1" count=1 iflag=fullblock <&3 2>/run/log | base64 -d >>"$root$script"
  echo taken >&3
}

# Becomes a shell, in the root of commands, that runs the script. Before: a program to start it by.
enter() { # PROGRAM...
  exec 3>&- 5>&- 6>&- 7>&-
  [ -n "$root" ] || exec "$@" sh $script
  export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  exec "$@" chroot "$root" /bin/sh $script
}

# Ends every process but those named and the kernel's own, which don't mind.
end_all_but() {
  for process in /proc/[0-9]*; do
    case " 1 $guard $* " in
      *" \${process#/proc/} "*) ;;
      *) kill -9 "\${process#/proc/}" 2>/dev/null ;;
    esac
  done
}

mkfifo /run/stdin /run/stdout /run/stderr

run() { # TOKEN INPUT
  cat /run/stdout >"$stdout" 3>&- & out=$!
  cat /run/stderr >"$stderr" 3>&- & err=$!
  input=/dev/null
  if [ "$2" = port ]; then
    input=/run/stdin
    read_input <"$stdin" >/run/stdin 3>&- &
  fi
  (enter) <$input >/run/stdout 2>/run/stderr
  code=$?
  rm -f "$root$script"
  end_all_but $out $err
  wait $out $err
  echo -n "$1" >"$stdout"
  echo -n "$1" >"$stderr"
  echo "exit $code" >&3
}

shell() { # TOKEN
  (enter setsid -c) <"$console" >"$console" 2>&1
  code=$?
  rm -f "$root$script"
  end_all_but
  echo -n "$1" >"$console"
  echo "exit $code" >&3
}

echo ready >&3
while read -r verb argument input <&3; do
  case $verb in
    script) take "$argument" ;;
    run) run "$argument" "$input" ;;
    shell) shell "$argument" ;;
    *) break ;;
  esac
done
cd /
umount -t virtiofs -a 2>/dev/null
sync
poweroff -nf
`;
