// What draws: named here so that it becomes a file of its own.
export * from "@observablehq/plot";
