;; WASI preview 1 as an actor sees it: the functions it imports. Actors get no files, no environment, no sockets and an
;; empty standard input, so most answers are known here and need neither the actor's memory nor the host. The others
;; jump through a table that wasi.wat fills, since that needs the actor's memory and the actor needs these first.
;;
;; Error numbers: 8 bad descriptor, 28 invalid, 54 not a directory, 57 not a socket, 70 no seeking.
;; Descriptors 0, 1 and 2 are the standard streams; there are no others.
(module
  (type $2 (func (param i32 i32) (result i32)))
  (type $3 (func (param i32 i32 i32) (result i32)))
  (type $4 (func (param i32 i32 i32 i32) (result i32)))
  (type $clock (func (param i32 i64 i32) (result i32)))
  (type $exit (func (param i32)))

  (table (export "table") 12 12 funcref)

  ;; $error if the descriptor is a standard stream, else "bad descriptor"
  (func $stream (param $fd i32) (param $error i32) (result i32)
    (select (local.get $error) (i32.const 8) (i32.le_u (local.get $fd) (i32.const 2))))

  ;; --- with the actor's memory or the host: wasi.wat

  (func (export "args_get") (type $2)
    (call_indirect (type $2) (local.get 0) (local.get 1) (i32.const 0)))
  (func (export "args_sizes_get") (type $2)
    (call_indirect (type $2) (local.get 0) (local.get 1) (i32.const 1)))
  (func (export "environ_sizes_get") (type $2)
    (call_indirect (type $2) (local.get 0) (local.get 1) (i32.const 2)))
  (func (export "clock_res_get") (type $2)
    (call_indirect (type $2) (local.get 0) (local.get 1) (i32.const 3)))
  (func (export "clock_time_get") (type $clock)
    (call_indirect (type $clock) (local.get 0) (local.get 1) (local.get 2) (i32.const 4)))
  (func (export "fd_fdstat_get") (type $2)
    (call_indirect (type $2) (local.get 0) (local.get 1) (i32.const 5)))
  (func (export "fd_filestat_get") (type $2)
    (call_indirect (type $3) (local.get 0) (local.get 1) (i32.const 64) (i32.const 6)))
  (func (export "fd_read") (type $4)
    (call_indirect (type $4) (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 7)))
  (func (export "fd_write") (type $4)
    (call_indirect (type $4) (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 8)))
  (func (export "random_get") (type $2)
    (call_indirect (type $2) (local.get 0) (local.get 1) (i32.const 9)))
  (func (export "proc_exit") (type $exit)
    (call_indirect (type $exit) (local.get 0) (i32.const 10)))
  (func (export "proc_raise") (param $signal i32) (result i32)
    (call_indirect (type $exit) (i32.add (local.get $signal) (i32.const 128)) (i32.const 10))
    (unreachable))
  (type $poll (func (param i32 i32 i32 i32 i32) (result i32)))
  (func (export "poll_oneoff") (type $4)
    (call_indirect (type $poll)
      (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 48) (i32.const 11)))

  ;; wasi_unstable, the preview before, lays out two structures differently
  (func (export "unstable poll_oneoff") (type $4)
    (call_indirect (type $poll)
      (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 56) (i32.const 11)))
  (func (export "unstable fd_filestat_get") (type $2)
    (call_indirect (type $3) (local.get 0) (local.get 1) (i32.const 56) (i32.const 6)))

  ;; --- always the same answer

  (func (export "environ_get") (type $2) (i32.const 0))
  (func (export "sched_yield") (result i32) (i32.const 0))

  (func (export "fd_advise") (param i32 i64 i64 i32) (result i32) (call $stream (local.get 0) (i32.const 70)))
  (func (export "fd_allocate") (param i32 i64 i64) (result i32) (call $stream (local.get 0) (i32.const 28)))
  (func (export "fd_close") (param i32) (result i32) (call $stream (local.get 0) (i32.const 0)))
  (func (export "fd_datasync") (param i32) (result i32) (call $stream (local.get 0) (i32.const 0)))
  (func (export "fd_fdstat_set_flags") (type $2) (call $stream (local.get 0) (i32.const 0)))
  (func (export "fd_fdstat_set_rights") (param i32 i64 i64) (result i32) (call $stream (local.get 0) (i32.const 0)))
  (func (export "fd_filestat_set_size") (param i32 i64) (result i32) (call $stream (local.get 0) (i32.const 28)))
  (func (export "fd_filestat_set_times") (param i32 i64 i64 i32) (result i32)
    (call $stream (local.get 0) (i32.const 28)))
  (func (export "fd_pread") (param i32 i32 i32 i64 i32) (result i32) (call $stream (local.get 0) (i32.const 70)))
  (func (export "fd_prestat_get") (type $2) (i32.const 8))
  (func (export "fd_prestat_dir_name") (type $3) (i32.const 8))
  (func (export "fd_pwrite") (param i32 i32 i32 i64 i32) (result i32) (call $stream (local.get 0) (i32.const 70)))
  (func (export "fd_readdir") (param i32 i32 i32 i64 i32) (result i32) (call $stream (local.get 0) (i32.const 54)))
  (func (export "fd_renumber") (type $2) (call $stream (local.get 0) (i32.const 28)))
  (func (export "fd_seek") (param i32 i64 i32 i32) (result i32) (call $stream (local.get 0) (i32.const 70)))
  (func (export "fd_sync") (param i32) (result i32) (call $stream (local.get 0) (i32.const 0)))
  (func (export "fd_tell") (type $2) (call $stream (local.get 0) (i32.const 70)))

  (func (export "path_create_directory") (type $3) (call $stream (local.get 0) (i32.const 54)))
  (func (export "path_filestat_get") (param i32 i32 i32 i32 i32) (result i32)
    (call $stream (local.get 0) (i32.const 54)))
  (func (export "path_filestat_set_times") (param i32 i32 i32 i32 i64 i64 i32) (result i32)
    (call $stream (local.get 0) (i32.const 54)))
  (func (export "path_link") (param i32 i32 i32 i32 i32 i32 i32) (result i32)
    (call $stream (local.get 0) (i32.const 54)))
  (func (export "path_open") (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)
    (call $stream (local.get 0) (i32.const 54)))
  (func (export "path_readlink") (param i32 i32 i32 i32 i32 i32) (result i32)
    (call $stream (local.get 0) (i32.const 54)))
  (func (export "path_remove_directory") (type $3) (call $stream (local.get 0) (i32.const 54)))
  (func (export "path_rename") (param i32 i32 i32 i32 i32 i32) (result i32)
    (call $stream (local.get 0) (i32.const 54)))
  (func (export "path_symlink") (param i32 i32 i32 i32 i32) (result i32)
    (call $stream (local.get 2) (i32.const 54)))
  (func (export "path_unlink_file") (type $3) (call $stream (local.get 0) (i32.const 54)))

  (func (export "sock_accept") (type $3) (call $stream (local.get 0) (i32.const 57)))
  (func (export "sock_recv") (param i32 i32 i32 i32 i32 i32) (result i32) (call $stream (local.get 0) (i32.const 57)))
  (func (export "sock_send") (param i32 i32 i32 i32 i32) (result i32) (call $stream (local.get 0) (i32.const 57)))
  (func (export "sock_shutdown") (type $2) (call $stream (local.get 0) (i32.const 57)))
)
