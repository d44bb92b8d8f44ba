;; Answers with as many bytes as its payload says (32 bits, little-endian); from 17 MiB that is above the usual limit.
(module
  (import "wasmbus" "__guest_request" (func $request (param i32 i32)))
  (import "wasmbus" "__guest_response" (func $response (param i32 i32)))
  (memory (export "memory") 400)
  (func (export "__guest_call") (param $operation i32) (param $payload i32) (result i32)
    (call $request (i32.const 8) (i32.const 0))
    (call $response (i32.const 0) (i32.load (i32.const 0)))
    (i32.const 1)))
