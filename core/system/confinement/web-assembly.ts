/** The global `WebAssembly`, as far as it compiles, for which Node's types have nothing. */
interface Engine {
  Module: new (...given: readonly unknown[]) => object;
  instantiate(given: unknown, ...more: readonly unknown[]): Promise<unknown>;
  compile(): Promise<unknown>;
  compileStreaming(): Promise<unknown>;
  instantiateStreaming(): Promise<unknown>;
}

/**
 * Has it fail to compile WebAssembly in this process, for good. Where the engine gets no executable
 * memory for that it ends the process, so that a library which is loaded late would do so. What is
 * compiled already can be used.
 */
export function refuseWebAssembly(): void {
  const { WebAssembly: engine } = globalThis as unknown as { WebAssembly: Engine };
  const { Module, instantiate } = engine;
  engine.Module = new Proxy(Module, {
    construct() {
      throw refusal();
    },
  });
  engine.compile = refuse;
  engine.compileStreaming = refuse;
  engine.instantiateStreaming = refuse;
  engine.instantiate = (given, ...more) => (given instanceof Module ? instantiate(given, ...more) : refuse());
}

function refuse(): Promise<never> {
  return Promise.reject(refusal());
}

function refusal(): Error {
  return new Error(
    'a confined daemon that has started compiles no WebAssembly: see BackendNeeds.machineCode',
  );
}
