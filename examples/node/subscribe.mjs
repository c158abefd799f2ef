// Reads predictions with kafkajs: `node subscribe.mjs [--once]`.
//
// Environment: KAFKA_BOOTSTRAP_SERVERS, TOPIC, SCHEMAS (the folder schemas/ of Leadstream), SCHEMA_REGISTRY_URL if there
// is one. Prints `lead id<tab>probability<tab>grade`, or `lead id<tab>erased`.

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { randomUUID } from 'node:crypto'
import { Kafka, logLevel } from 'kafkajs'
import { SchemaRegistry } from '@kafkajs/confluent-schema-registry'
import avro from 'avsc'
import './codecs.mjs'

const topic = process.env.TOPIC ?? 'crm.lead-predictions'
const schemas = process.env.SCHEMAS ?? join(import.meta.dirname, '../../schemas')
const once = process.argv.includes('--once')

// CRC-64-AVRO of the schema's Parsing Canonical Form (Avro specification), as 16 hexadecimal digits, low byte first.
const EMPTY = 0xc15d213aa4d7a795n
const TABLE = Array.from({ length: 256 }, (_, byte) => {
  let crc = BigInt(byte)
  for (let bit = 0; bit < 8; bit++) crc = (crc >> 1n) ^ (crc & 1n ? EMPTY : 0n)
  return crc
})
function fingerprint(type) {
  let crc = EMPTY
  for (const byte of Buffer.from(JSON.stringify(type.schema()))) {
    crc = (crc >> 8n) ^ TABLE[Number((crc ^ BigInt(byte)) & 0xffn)]
  }
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(crc)
  return bytes.toString('hex')
}

// What is read into: fields that a newer Leadstream adds are skipped, those that an older one lacks get their defaults.
const present = join(schemas, 'lead_prediction.avsc')
const typeOf = (path) => avro.Type.forSchema(JSON.parse(readFileSync(path, 'utf8')))
const reader = typeOf(present)
const writers = new Map()
const released = readdirSync(join(schemas, 'released')).map((v) => join(schemas, 'released', v, 'lead_prediction.avsc'))
for (const path of [present, ...released]) {
  const type = typeOf(path)
  writers.set(fingerprint(type), { type, resolver: reader.createResolver(type) })
}
const registry = process.env.SCHEMA_REGISTRY_URL && new SchemaRegistry({ host: process.env.SCHEMA_REGISTRY_URL })

async function decode(value) {
  if (value[0] === 0xc3 && value[1] === 0x01) { // Avro single object: the fingerprint of the writer's schema, 8 bytes
    const writer = writers.get(value.subarray(2, 10).toString('hex'))
    if (!writer) throw new Error('written by a schema that is not in the folder of schemas: update it')
    return reader.fromBuffer(value.subarray(10), writer.resolver)
  }
  return registry.decode(value) // Confluent: the id of the writer's schema in the registry, 4 bytes
}

const kafka = new Kafka({ brokers: process.env.KAFKA_BOOTSTRAP_SERVERS.split(','), logLevel: logLevel.NOTHING })
// A table of all scores starts from the beginning each time; a service keeps its group's name.
const consumer = kafka.consumer({ groupId: `example-${randomUUID()}` }) // reads committed data, kafkajs's default
const admin = kafka.admin()
await admin.connect()
const ends = new Map((await admin.fetchTopicOffsets(topic)).map((p) => [p.partition, p]))
await admin.disconnect()
const unread = new Set([...ends.values()].filter((p) => p.low !== p.high).map((p) => p.partition))

await consumer.connect()
await consumer.subscribe({ topic, fromBeginning: true })
const done = new Promise((resolve, reject) => {
  if (unread.size === 0) resolve()
  consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error))
  // A batch ends where the committed data does, which may be a mark that is no message.
  consumer.on(consumer.events.END_BATCH_PROCESS, ({ payload }) => {
    if (Number(payload.lastOffset) >= Number(ends.get(payload.partition).high) - 1) unread.delete(payload.partition)
    if (unread.size === 0) resolve()
  })
})
await consumer.run({
  eachBatch: async ({ batch, resolveOffset }) => {
    for (const { key, value, offset } of batch.messages) {
      if (value === null) console.log(`${key}\terased`)
      else {
        const { lead_id, probability, grade } = await decode(value)
        console.log(`${lead_id}\t${probability.toFixed(3)}\t${grade}`)
      }
      resolveOffset(offset)
    }
  }
})
if (once) {
  await done
  await consumer.disconnect()
}
