;; Hands its request to the host: binding "link", namespace "contract", its own operation and payload.
;; Answers with the host's answer, or fails with the host's error text.
(module
  (import "wasmbus" "__guest_request" (func $request (param i32 i32)))
  (import "wasmbus" "__guest_response" (func $response (param i32 i32)))
  (import "wasmbus" "__guest_error" (func $error (param i32 i32)))
  (import "wasmbus" "__host_call" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasmbus" "__host_response_len" (func $response_len (result i32)))
  (import "wasmbus" "__host_response" (func $take_response (param i32)))
  (import "wasmbus" "__host_error_len" (func $error_len (result i32)))
  (import "wasmbus" "__host_error" (func $take_error (param i32)))
  (memory (export "memory") 64)
  (data (i32.const 0) "linkcontract")
  (func (export "__guest_call") (param $operation i32) (param $payload i32) (result i32)
    (call $request (i32.const 0x100) (i32.const 0x1000))
    (if (call $call
          (i32.const 0) (i32.const 4)
          (i32.const 4) (i32.const 8)
          (i32.const 0x100) (local.get $operation)
          (i32.const 0x1000) (local.get $payload))
      (then
        (if (call $error_len) (then (unreachable)))
        (call $take_response (i32.const 0x1000))
        (call $response (i32.const 0x1000) (call $response_len))
        (return (i32.const 1))))
    (if (call $response_len) (then (unreachable)))
    (call $take_error (i32.const 0x1000))
    (call $error (i32.const 0x1000) (call $error_len))
    (i32.const 0)))
