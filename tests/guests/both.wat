;; Gives two responses and two errors; succeeds if it has a payload.
(module
  (import "wapc" "__guest_response" (func $response (param i32 i32)))
  (import "wapc" "__guest_error" (func $error (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "first responseresponsefirst errorerror")
  (func (export "__guest_call") (param $operation i32) (param $payload i32) (result i32)
    (call $response (i32.const 0) (i32.const 14))
    (call $error (i32.const 22) (i32.const 11))
    (call $response (i32.const 14) (i32.const 8))
    (call $error (i32.const 33) (i32.const 5))
    (i32.ne (local.get $payload) (i32.const 0))))
